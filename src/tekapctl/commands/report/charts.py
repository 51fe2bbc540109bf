"""Means with their intervals along a setting, as SVG."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tekapctl.commands.report import drawing
from tekapctl.experiments.comparison.groups import Group


@dataclass(frozen=True)
class Point:
    """A mean on the chart.

    Attributes:
        at: The setting.
        mean: In the axis's unit.
        half: Half of its interval; None where it has none.
    """

    at: float | int
    mean: float
    half: float | None


def along(title: str, axis: str, unit: str, series: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """A line for each series, with whiskers, on an axis on which each doubling is one step.

    Args:
        title: What it is, for those who do not see it.
        axis: What the horizontal axis shows.
        unit: What the vertical one does.
        series: Names and points.
    """
    width, height, left, top, bottom = 720, 320, 56, 12, 46
    points = [point for _, each in series for point in each]
    places = sorted({point.at for point in points})
    if not places:
        return ""
    ends = [point.mean + sign * (point.half or 0.0) for point in points for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    pad = (high - low) * 0.06 or 1.0
    low, high = low - pad, high + pad

    first, last = math.log2(places[0]), math.log2(places[-1])

    def x(at: float | int, number: int) -> float:
        share = (math.log2(at) - first) / (last - first) if last > first else 0.5
        # Series side by side: whiskers at one place would hide each other.
        return left + 20 + (width - left - 52) * share + 4 * (number - (len(series) - 1) / 2)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [drawing.grid(y(tick), left, width - 12, f"{tick:.4g}") for tick in drawing.ticks(low, high)]
    middle = (len(series) - 1) / 2
    for place in places:
        parts.append(drawing.text(x(place, 0) + 4 * middle, height - 26, f"{place:g}"))
    parts.append(drawing.text((left + width) / 2, height - 6, f"{escape(axis)}; {escape(unit)} upwards"))
    for number, (name, each) in enumerate(series):
        colour = drawing.colour(number)
        ordered = sorted(each, key=lambda point: point.at)
        line = " ".join(f"{x(point.at, number):.1f},{y(point.mean):.1f}" for point in ordered)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{drawing.dash(number)}/>'
        )
        for point in ordered:
            told = f"{name}, {point.at:g}: {point.mean:.2f}"
            where = x(point.at, number)
            if point.half is not None:
                told += f" ± {point.half:.2f}"
                lower, upper = y(point.mean - point.half), y(point.mean + point.half)
                parts.append(
                    f'<line x1="{where:.1f}" x2="{where:.1f}" y1="{lower:.1f}" y2="{upper:.1f}" '
                    f'stroke="{colour}" stroke-width="1.2"/>'
                )
            parts.append(
                f'<circle cx="{where:.1f}" cy="{y(point.mean):.1f}" r="3.6" fill="{colour}">'
                f"<title>{escape(told)}</title></circle>"
            )
    return drawing.svg(width, height, title, parts)


Told = dict[str, list[dict[str, Any]]]
"""The metrics of all epochs of a group's runs, by its label."""

_TRAINING = (
    ("test_top1", "Test accuracy", "top-1 in percent", 100.0),
    ("train_top1", "Training accuracy", "top-1 in percent, on augmented images", 100.0),
    ("train_loss", "Training loss", "weighted sum of its parts", 1.0),
)
_WHOSE = {"logit": "Logit level", "feature": "Feature level", "views": "Learned views"}
_DIVERSITY = (
    ("variance", "Variance", "of a class's probability", 1.0),
    ("disagreement", "Disagreement", "with the teacher's class, in percent", 100.0),
    ("ensemble_top1", "Ensemble's accuracy", "top-1 in percent", 100.0),
    ("ensemble_calibration_error", "Ensemble's calibration error", "in percent", 100.0),
    ("noise_share", "Noise in the student's gradient", "share in percent", 100.0),
)
_LABELS = ("diagnosis_label_cosine", "Student's gradient and the labels'", "their cosine", 1.0)


def how_made(text: str) -> str:
    """A paragraph that says how something was made."""
    return f'<p class="how">{escape(text)}</p>'


def figure(drawn: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawn}</figure>"


def training(groups: Sequence[Group]) -> str:
    """Accuracies and losses; nothing where no run has any."""
    told = _told(groups)
    drawn = [found for row in _TRAINING if (found := _panel(told, *row))]
    if not drawn:
        return ""
    how = how_made(
        "Lines are means over seeds, bands reach from the lowest seed to the highest. Losses of different methods have "
        "other parts and weights: compare their course, not their height."
    )
    return how + drawing.legend(list(told)) + _panels(drawn)


def diversity(groups: Sequence[Group]) -> str:
    """What runs with `--diagnose` say of their augmented teachers; nothing where there are none.

    Args:
        groups: All groups, so that each keeps its colour.
    """
    told, parts = _told(groups), []
    for whose, where in _WHOSE.items():
        drawn = []
        for field, title, unit, scale in _DIVERSITY:
            of_teacher = f"diagnosis_teacher_{field.removeprefix('ensemble_')}"
            alone = _range(told, of_teacher, scale) if field.startswith("ensemble_") else ""
            drawn.append(_panel(told, f"diagnosis_{whose}_{field}", title, unit, scale, alone))
        if any(drawn):
            parts.append(f"<h3>{where}</h3>{_panels(drawn)}")
    if labels := _panel(told, *_LABELS):
        parts.append(f"<h3>Whole loss</h3>{_panels([labels])}")
    if not parts:
        return ""
    how = how_made(
        "Of runs with --diagnose, after each epoch: what augmented teachers predict of test images (2,000 at most), "
        "and what share the noise of a step has in the student's gradient, norm(g - g0) / norm(g) with g0 the gradient "
        "without it. The ensemble is the teacher with its augmented teachers, weighed as in the loss."
    )
    shown = {
        label for label, entries in told.items() if any(field.startswith("diagnosis_") for e in entries for field in e)
    }
    return how + drawing.legend(list(told), only=shown) + "".join(parts)


def _panels(drawn: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(drawn)}</div>'


def _told(groups: Sequence[Group]) -> Told:
    return {group.label: [entry for one in group.runs.values() for entry in one.run.metrics()] for group in groups}


def _panel(told: Told, field: str, title: str, unit: str, scale: float, more: str = "") -> str:
    """A figure with a line for each group that has a field; nothing where none has."""
    drawn = drawing.lines(title, unit, [_line(label, entries, field, scale) for label, entries in told.items()])
    return figure(drawn, f"{title}: {unit}{more}") if drawn else ""


def _line(label: str, entries: Sequence[dict[str, Any]], field: str, scale: float) -> drawing.Line:
    by_epoch: dict[int, list[float]] = {}
    for entry in entries:
        if "epoch" in entry and field in entry:
            by_epoch.setdefault(int(entry["epoch"]), []).append(scale * float(entry[field]))
    epochs = sorted(by_epoch)
    return drawing.Line(
        label,
        epochs,
        [statistics.mean(by_epoch[epoch]) for epoch in epochs],
        [min(by_epoch[epoch]) for epoch in epochs],
        [max(by_epoch[epoch]) for epoch in epochs],
    )


def _range(told: Told, field: str, scale: float) -> str:
    """What the teachers alone have, in words."""
    found = [scale * float(entry[field]) for entries in told.values() for entry in entries if field in entry]
    if not found:
        return ""
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return f" (teacher: {low})" if low == high else f" (teachers: {low} to {high})"
