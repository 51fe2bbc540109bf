"""What TeKAP is worth on images that are not as those it learned from."""

from typing import Annotated, ClassVar

from pydantic import Field

from tekapctl.commands.robustness import CORRUPTIONS, Request
from tekapctl.experiments.studies.baselines import the_usual
from tekapctl.experiments.studies.contrast import less
from tekapctl.experiments.studies.outcome import TOP1, under
from tekapctl.experiments.studies.study import STUDIES, Base, Design, Study

Epsilon = Annotated[float, Field(gt=0, le=1)]
Severity = Annotated[int, Field(ge=1, le=5)]
Share = Annotated[float, Field(gt=0, le=1)]


@STUDIES.register("robustness")
class Robustness(Study):
    """Adversarial noise made for each network, common corruptions, and occlusion of the test images."""

    question: ClassVar[str] = "Are students of TeKAP more robust to adversarial noise, corruptions and occlusion?"
    epsilons: tuple[Epsilon, ...] = Field(
        (2 / 255, 8 / 255), description="Most that attacks change a pixel by, black to white being 1."
    )
    severities: tuple[Severity, ...] = Field((1, 3, 5), description="Severities of the corruptions, 1 to 5.")
    occlusions: tuple[Share, ...] = Field((0.1, 0.25), description="Shares of the images' area that are grey.")
    limit: int = Field(2000, ge=1, description="Test images that are shifted, evenly spread.")

    def design(self, base: Base) -> Design:
        """The usual ways, each network under each kind of shift."""
        arms, (name, tekap, without, alone) = the_usual(base.spec)
        kinds = {
            "under FGSM": Request(attacks=["fgsm"], epsilons=self.epsilons),
            "under PGD": Request(attacks=["pgd"], epsilons=self.epsilons),
            "under corruptions": Request(corruptions=list(CORRUPTIONS), severities=self.severities),
            "under occlusion": Request(occlusions=self.occlusions),
        }
        whole = Request(
            attacks=["fgsm", "pgd"] if self.epsilons else [],
            epsilons=self.epsilons,
            corruptions=list(CORRUPTIONS) if self.severities else [],
            severities=self.severities,
            occlusions=self.occlusions,
        )
        shifted = {kind: [shift.name for shift in request.shifts()] for kind, request in kinds.items()}
        return Design(
            arms,
            [
                less(f"{tekap} less {name}", tekap, name),
                less(f"{tekap} less without noise", tekap, without),
                less(f"{name} less alone", name, alone),
            ],
            outcomes=[TOP1, *(under(kind, shifts) for kind, shifts in shifted.items() if shifts)],
            request=whole,
            limit=self.limit,
        )
