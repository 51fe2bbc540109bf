"""What TeKAP is worth where classes are of unequal size."""

from typing import Annotated, ClassVar

from pydantic import Field

from tekapctl.experiments.studies.baselines import design_along
from tekapctl.experiments.studies.study import STUDIES, Base, Design, Study
from tekapctl.spec import StudentSpec

Factor = Annotated[float, Field(ge=1)]


@STUDIES.register("imbalance")
class Imbalance(Study):
    """Training sets with an exponential tail (Cao et al., NeurIPS 2019); the teacher has seen all images."""

    question: ClassVar[str] = "Does TeKAP help more where some classes have few images?"
    factors: Annotated[
        tuple[Factor, ...],
        Field(min_length=1, description="How many times as many images the largest class has as the smallest."),
    ] = (10.0, 20.0, 50.0, 100.0)

    def design(self, base: Base) -> Design:
        """The usual ways with each factor between the largest and the smallest class."""

        def with_factor(factor: float) -> StudentSpec:
            data = base.spec.data.model_copy(update={"imbalance": factor})
            return base.spec.model_copy(update={"data": data})

        factors = sorted(set(self.factors))
        return design_along(
            {factor: with_factor(factor) for factor in factors}, "imbalance", "largest class, times the smallest"
        )
