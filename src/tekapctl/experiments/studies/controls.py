"""What TeKAP is worth, and which of its effects that is due to."""

from typing import ClassVar

from tekapctl.experiments.studies.baselines import effects_of, name_of, plain, relevant
from tekapctl.experiments.studies.contrast import Contrast, less, mean_of
from tekapctl.experiments.studies.study import STUDIES, Arm, Base, Design, Study
from tekapctl.spec.effects import keep


@STUDIES.register("controls")
class Controls(Study):
    """The method, its TeKAP form, each effect of TeKAP by itself, and TeKAP without each.

    For each effect all pairs of arms that differ in it alone are taken together.
    """

    question: ClassVar[str] = "What is TeKAP worth, and what of that is due to its noise, its shrink and its weight?"

    def design(self, base: Base) -> Design:
        """All the arms, TeKAP's worth and that of each effect."""
        spec = relevant(base.spec)
        name, effects = name_of(spec), effects_of(spec)
        everything = frozenset(effects)
        kept = dict.fromkeys(
            [
                frozenset[str](),
                everything,
                *(frozenset({effect}) for effect in effects),
                *(everything - {effect} for effect in effects),
            ]
        )
        labels = {some: _label(name, some, effects) for some in kept}
        arms = [
            Arm(labels[some], spec if some == everything else keep(spec, some) if some else plain(spec))
            for some in kept
        ]
        contrasts: list[Contrast] = [less(f"TeKAP less {name}", labels[everything], labels[frozenset()])]
        for effect in effects:
            pairs = [
                (labels[some], labels[some - {effect}]) for some in kept if effect in some and some - {effect} in kept
            ]
            contrasts.append(mean_of(f"{effect}, all else equal", pairs))
        return Design(arms, contrasts)


def _label(name: str, some: frozenset[str], effects: list[str]) -> str:
    if not some:
        return name
    if len(some) == len(effects):
        return f"{name} + TeKAP"
    if len(some) == len(effects) - 1:
        (left_out,) = set(effects) - some
        return f"{name} + TeKAP without {left_out}"
    return f"{name} + {', '.join(effect for effect in effects if effect in some)}"
