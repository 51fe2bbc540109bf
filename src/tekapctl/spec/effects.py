"""Ablations: TeKAP with only some of its effects.

The published losses change more than noise: the distillation loss weighs more, since augmented teachers are added to
the teacher (3.4 times at the logit level); augmented teachers are scaled by 0.9; CRD's student term counts once more
for each of them, and its banks are updated once more.
"""

from collections.abc import Collection
from typing import Literal, get_args

from tekapctl.distillation.tekap import LevelSettings
from tekapctl.errors import UsageError
from tekapctl.registry import unknown_name
from tekapctl.spec.io import parse, to_dict
from tekapctl.spec.student import StudentSpec

Effect = Literal["weight", "shrink", "noise", "student-term", "bank-updates"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)
OF_SOME = {"student-term", "bank-updates"}
"""Effects on the methods that declare them as their `own_effects`, such as CRD."""


def keep(spec: StudentSpec, effects: Collection[str]) -> StudentSpec:
    """Keep only the given effects of TeKAP, at each level.

    - `weight`: the weights of the teacher's and the augmented teachers' losses; without it, they sum to 1.
    - `shrink`: augmented teachers are `teacher_scale` times the teacher's output; without it, 1 times.
    - `noise`: the noise of augmented teachers; without it, none.
    - `student-term`: CRD's student term counts once more for each augmented teacher; without it, once.
    - `bank-updates`: CRD's banks are updated for each augmented teacher; without it, once.

    With all effects this is the spec itself; with none, the loss is that of the method without TeKAP.

    Raises:
        UsageError: An effect is unknown, or the spec does not have it.
    """
    for effect in effects:
        if effect not in EFFECTS:
            raise unknown_name("effect of TeKAP", effect, list(EFFECTS))
    if not (spec.tekap.logit.teachers or spec.tekap.feature.teachers):
        raise UsageError("The spec has no augmented teachers, so TeKAP has no effects.", "Switch TeKAP on.")
    wrong = sorted((OF_SOME & set(effects)) - spec.method.own_effects)
    if wrong:
        raise UsageError(f"TeKAP has no effect {wrong[0]} on the method {spec.method.name}.", "Leave it out.")
    tekap = to_dict(spec)["tekap"]
    tekap["logit"] |= _changes(spec.tekap.logit, effects, needs_teachers=False)
    tekap["feature"] |= _changes(spec.tekap.feature, effects, needs_teachers=bool(OF_SOME & set(effects)))
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
        # Augmented teachers without noise and scaling are the teacher, with their weight.
        teachers = settings.teachers if needs_teachers else 0
        return {"teachers": teachers, "teacher_loss_weight": whole * scale, "loss_weight": 0.0}
    return {
        "teacher_loss_weight": settings.teacher_loss_weight * scale,
        "loss_weight": settings.loss_weight * scale,
        "teacher_scale": settings.teacher_scale if "shrink" in effects else 1.0,
        "noise_weight": settings.noise_weight if "noise" in effects else 0.0,
    }
