"""How strong the noise should be, and of which distribution."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tekapctl.distill.tekap import Distribution
from tekapctl.experiments.studies.baselines import changed, name_of, noiseless, relevant
from tekapctl.experiments.studies.contrast import Contrast, less, mean_of
from tekapctl.experiments.studies.study import STUDIES, Arm, Base, Design, Place, Study
from tekapctl.spec import StudentSpec, to_dict


@STUDIES.register("noise")
class Noise(Study):
    """Noise of several times the published deviation against none, with weight and shrink as they are."""

    question: ClassVar[str] = "How strong should the noise be, and does its distribution matter?"
    factors: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(min_length=1, description="Strengths of the noise, times the spec's deviation."),
    ] = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
    distributions: Annotated[
        tuple[Distribution, ...], Field(min_length=1, description="Distributions of the noise.")
    ] = ("gaussian", "uniform")

    def design(self, base: Base) -> Design:
        """TeKAP without noise, and with noise of each strength and distribution."""
        spec = relevant(base.spec)
        name = name_of(spec)
        nothing = f"{name} + TeKAP without noise"
        arms = [Arm(nothing, noiseless(spec))]
        labels: dict[tuple[Distribution, float], str] = {}
        for distribution in self.distributions:
            for factor in self.factors:
                label = f"{distribution} x {factor:g}"
                labels[distribution, factor] = label
                arms.append(Arm(label, _noisy(spec, factor, distribution), Place(distribution, factor)))
        contrasts: list[Contrast] = [less(f"{label} less no noise", label, nothing) for label in labels.values()]
        first, *others = self.distributions
        for other in others:
            pairs = [(labels[other, factor], labels[first, factor]) for factor in self.factors]
            contrasts.append(mean_of(f"{other} less {first} noise", pairs))
        return Design(arms, contrasts, axis="noise, times the published deviation")


def _noisy(spec: StudentSpec, factor: float, distribution: Distribution) -> StudentSpec:
    tekap: dict[str, Any] = to_dict(spec)["tekap"]
    for level in tekap.values():
        level["noise_std"] *= factor
        level["distribution"] = distribution
    return changed(spec, tekap=tekap)
