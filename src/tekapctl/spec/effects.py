"""Controls: TeKAP with everything taken away but what is named, so that each effect can be looked at by itself.

The published losses change more than noise: the student learns from augmented teachers besides the teacher, so that all
distillation weighs more (3.4 times at the logit level); augmented teachers are shrunk (0.9); CRD's student term counts
once more for each, and its banks are updated once more.
"""

from collections.abc import Collection
from typing import Literal, get_args

from tekapctl.distill.tekap import LevelSettings
from tekapctl.errors import UsageError
from tekapctl.registry import unknown_name
from tekapctl.spec.io import parse, to_dict
from tekapctl.spec.run import StudentSpec

Effect = Literal["weight", "shrink", "noise", "student-term", "bank-updates"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
OF_CRD = {"student-term", "bank-updates"}
"""Those that only CRD has."""


def keep(spec: StudentSpec, effects: Collection[str]) -> StudentSpec:
    """A TeKAP spec with these of its effects and no others, at each of its levels.

    - `weight`: the teacher's and the augmented teachers' losses weigh together what they do; without it, 1.
    - `shrink`: augmented teachers have `teacher_scale` of the teacher's output; without it, all of it.
    - `noise`: they have its noise; without it, none.
    - `student-term`: CRD's student term counts once more for each augmented teacher; without it, once.
    - `bank-updates`: CRD's banks are updated for each; without it, once.

    With all effects it is the spec itself. With none it has the loss of the method without TeKAP.

    Args:
        spec: The spec.
        effects: What is kept.

    Raises:
        UsageError: An effect is unknown, or the spec has it not.
    """
    for effect in effects:
        if effect not in EFFECTS:
            raise unknown_name("effect of TeKAP", effect, list(EFFECTS))
    if not (spec.tekap.logit.teachers or spec.tekap.feature.teachers):
        raise UsageError("There are no augmented teachers whose effects could be taken apart.", "Leave out --no-tekap.")
    wrong = sorted(OF_CRD & set(effects))
    if wrong and spec.method.name != "crd":
        raise UsageError(f"{wrong[0]} is an effect on CRD, and the method is {spec.method.name}.", "Leave it out.")
    tekap = to_dict(spec)["tekap"]
    tekap["logit"] |= _changes(spec.tekap.logit, effects, needs_teachers=False)
    tekap["feature"] |= _changes(spec.tekap.feature, effects, needs_teachers=bool(OF_CRD & set(effects)))
    if "student-term" not in effects:
        tekap["feature"]["student_term_weight"] = 0.0
    if "bank-updates" not in effects:
        tekap["feature"]["bank_updates"] = False
    kept = parse({**to_dict(spec), "tekap": tekap})
    assert isinstance(kept, StudentSpec)
    return kept


def _changes(settings: LevelSettings, effects: Collection[str], *, needs_teachers: bool) -> dict[str, float | int]:
    if not settings.teachers:
        return {}
    whole = settings.teacher_loss_weight + settings.teachers * settings.loss_weight
    scale = 1.0 if "weight" in effects else 1 / whole
    if not {"shrink", "noise"} & set(effects):
        # Augmented teachers that say what the teacher says are the teacher, with their weight.
        teachers = settings.teachers if needs_teachers else 0
        return {"teachers": teachers, "teacher_loss_weight": whole * scale, "loss_weight": 0.0}
    return {
        "teacher_loss_weight": settings.teacher_loss_weight * scale,
        "loss_weight": settings.loss_weight * scale,
        "teacher_scale": settings.teacher_scale if "shrink" in effects else 1.0,
        "noise_weight": settings.noise_weight if "noise" in effects else 0.0,
    }
