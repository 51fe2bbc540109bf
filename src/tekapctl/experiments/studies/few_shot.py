"""What TeKAP is worth with few images."""

from typing import Annotated, ClassVar

from pydantic import Field

from tekapctl.experiments.studies.baselines import design_along
from tekapctl.experiments.studies.study import STUDIES, Base, Design, Study
from tekapctl.spec import StudentSpec

Fraction = Annotated[float, Field(gt=0, le=1)]


@STUDIES.register("few-shot")
class FewShot(Study):
    """Shares of each class's training images for the student, whose teacher has seen all of them."""

    question: ClassVar[str] = "Does TeKAP help more where the student has fewer images?"
    fractions: Annotated[
        tuple[Fraction, ...],
        Field(min_length=1, description="Shares of each class's images, of those that the spec has."),
    ] = (0.05, 0.1, 0.25, 0.5, 1.0)

    def design(self, base: Base) -> Design:
        """The usual ways on each share of the images that the setting has."""
        whole = base.spec.data.train_fraction

        def with_share(share: float) -> StudentSpec:
            data = base.spec.data.model_copy(update={"train_fraction": share * whole})
            return base.spec.model_copy(update={"data": data})

        shares = sorted(set(self.fractions))
        return design_along({share * whole: with_share(share) for share in shares}, "fraction", "share of the images")
