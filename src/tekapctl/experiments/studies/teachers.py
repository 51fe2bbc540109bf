"""How many augmented teachers there should be."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tekapctl.experiments.studies.baselines import changed, name_of, plain, relevant
from tekapctl.experiments.studies.contrast import doublings, less, mean_of, trend
from tekapctl.experiments.studies.study import STUDIES, Arm, Base, Design, Place, Study
from tekapctl.spec import StudentSpec, to_dict
from tekapctl.spec.effects import keep


@STUDIES.register("teachers")
class Teachers(Study):
    """Several numbers of augmented teachers, with a weight that grows as published, and with the usual one's."""

    question: ClassVar[str] = "How many augmented teachers should there be, and is it their number or their weight?"
    counts: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096)], ...],
        Field(min_length=2, description="Numbers of augmented teachers, beside none."),
    ] = (1, 3, 8, 16)

    def design(self, base: Base) -> Design:
        """For each number: as published, at one total weight, and the published weight without augmented teachers."""
        spec = relevant(base.spec)
        name, counts = name_of(spec), sorted(set(self.counts))
        growing = {count: f"{name} + TeKAP of {count}" for count in counts}
        fixed = {count: f"{name} + TeKAP of {count}, weight as of {_usual(spec)}" for count in counts}
        weight = {count: f"{name} with the weight of {count}" for count in counts}
        usual = _usual(spec)
        if usual in counts:
            fixed[usual] = growing[usual]
        arms = [Arm(name, plain(spec))]
        for count in counts:
            many = _with(spec, count)
            arms.append(Arm(growing[count], many, Place("TeKAP, weight grows", count)))
            arms.append(Arm(weight[count], keep(many, ["weight"]), Place("no augmented teachers, same weight", count)))
            if count != usual:
                arms.append(Arm(fixed[count], _with(spec, count, of=usual), Place("TeKAP, weight kept", count)))
        at = doublings(counts)
        return Design(
            arms,
            [
                mean_of("augmented teachers, all else but shrink equal", [(growing[c], weight[c]) for c in counts]),
                trend("number, its weight growing", list(growing.values()), at, "doubling"),
                trend("weight alone", list(weight.values()), at, "doubling"),
                trend("number, at one weight", list(fixed.values()), at, "doubling"),
                less(f"{counts[-1]} less {counts[0]}, at one weight", fixed[counts[-1]], fixed[counts[0]]),
            ],
            axis="augmented teachers",
        )


def _usual(spec: StudentSpec) -> int:
    return spec.tekap.logit.teachers or spec.tekap.feature.teachers


def _with(spec: StudentSpec, count: int, of: int | None = None) -> StudentSpec:
    """The spec with so many augmented teachers at each level that has any, with the weight that so many others have."""
    tekap: dict[str, Any] = to_dict(spec)["tekap"]
    for level in tekap.values():
        if level["teachers"]:
            share = 1.0 if of is None else of / count
            level["teachers"] = count
            level["loss_weight"] *= share
            if "student_term_weight" in level:
                level["student_term_weight"] *= share
    return changed(spec, tekap=tekap)
