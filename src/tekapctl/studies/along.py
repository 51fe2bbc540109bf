"""The usual ways of training along a setting of the training set."""

from collections.abc import Mapping

from tekapctl.spec import StudentSpec
from tekapctl.studies.contrast import Contrast, doublings, mean_of, trend
from tekapctl.studies.study import Arm, Design, Place
from tekapctl.studies.ways import the_usual


def design_along(specs: Mapping[float | int, StudentSpec], what: str, axis: str) -> Design:
    """The student alone, the method, TeKAP, and TeKAP without noise, on each of several training sets.

    Args:
        specs: The student's run with TeKAP on each, by the setting, which is above 0.
        what: The setting in words, before its value.
        axis: What the chart's axis is called.
    """
    arms = []
    labels: dict[str, list[str]] = {}
    for at, spec in specs.items():
        for way in the_usual(spec)[0]:
            label = f"{way.label}, {what} {at:g}"
            labels.setdefault(way.label, []).append(label)
            arms.append(Arm(label, way.spec, Place(way.label, at)))
    first, tekap, without, _ = labels
    places = doublings(list(specs))
    contrasts: list[Contrast] = [
        mean_of(f"{tekap} less {first}", list(zip(labels[tekap], labels[first], strict=True))),
        mean_of(f"{tekap} less without noise", list(zip(labels[tekap], labels[without], strict=True))),
        mean_of(f"{first} less alone", list(zip(labels[first], labels["alone"], strict=True))),
    ]
    if len(specs) > 1:
        contrasts.append(trend(f"{tekap} less {first}, its trend", labels[tekap], places, "doubling", labels[first]))
    return Design(arms, contrasts, axis=axis)
