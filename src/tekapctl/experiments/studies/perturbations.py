"""Whether another perturbation than isotropic noise is worth more than none."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tekapctl.distill.angular import PUBLISHED_VIEWS
from tekapctl.distill.perturbations import PERTURBATIONS
from tekapctl.distill.tekap import KnownPerturbation
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.baselines import changed, name_of, noiseless, relevant
from tekapctl.experiments.studies.contrast import less
from tekapctl.experiments.studies.study import STUDIES, Arm, Base, Design, Place, Study
from tekapctl.spec import StudentSpec, to_dict


@STUDIES.register("perturbations")
class Perturbations(Study):
    """Perturbations of one size at one total weight, and learned views (Angular-KD) at that weight, against none."""

    question: ClassVar[str] = "Is any perturbation of the teacher's logits worth more than its weight and shrink alone?"
    factors: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="Sizes, times the published deviation."),
    ] = (10.0,)
    only: Annotated[
        tuple[KnownPerturbation, ...], Field(description="The perturbations that are compared; none means all.")
    ] = ()
    views: bool = Field(True, description="Whether learned views are among them.")

    def design(self, base: Base) -> Design:
        """TeKAP without noise, and with each perturbation of each size in its place.

        Raises:
            UsageError: There are no augmented teachers at the logit level.
        """
        spec = relevant(base.spec)
        if not spec.tekap.logit.teachers:
            raise UsageError(
                "The study's runs would have no augmented teachers at the logit level.", "Use --method kd, or --alpha."
            )
        name = name_of(spec)
        nothing = f"{name} + TeKAP without noise"
        arms = [Arm(nothing, noiseless(spec))]
        for perturbation in self.only or PERTURBATIONS:
            for factor in self.factors:
                made = _perturbed(spec, perturbation, factor)
                arms.append(Arm(f"{perturbation} x {factor:g}", made, Place(perturbation, factor)))
        if self.views:
            arms.append(Arm(f"{PUBLISHED_VIEWS} learned views", _with_views(spec)))
        contrasts = [less(f"{arm.label} less no noise", arm.label, nothing) for arm in arms[1:]]
        axis = "size, times the published deviation" if len(self.factors) > 1 else None
        return Design(arms, contrasts, axis=axis)


def _perturbed(spec: StudentSpec, perturbation: str, factor: float) -> StudentSpec:
    tekap: dict[str, Any] = to_dict(spec)["tekap"]
    tekap["logit"]["perturbation"] = perturbation
    tekap["logit"]["noise_std"] *= factor
    return changed(spec, tekap=tekap)


def _with_views(spec: StudentSpec) -> StudentSpec:
    """Learned views in the augmented teachers' place, with all their weight."""
    found = spec.tekap.logit
    weight = found.teacher_loss_weight + found.teachers * found.loss_weight
    without = {level: {**settings, "teachers": 0} for level, settings in to_dict(spec)["tekap"].items()}
    weights = {"alpha": spec.alpha * weight}
    if spec.method.requires.level == "logit":
        weights["beta"] = spec.beta * weight
    views = {**to_dict(spec)["angular"], "views": PUBLISHED_VIEWS}
    return changed(spec, tekap=without, angular=views, **weights)
