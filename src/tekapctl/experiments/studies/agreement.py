"""Whether TeKAP brings students nearer to their teacher."""

from typing import ClassVar

from tekapctl.experiments.studies.baselines import the_usual
from tekapctl.experiments.studies.contrast import less
from tekapctl.experiments.studies.outcome import AGREEMENT, CALIBRATION, CORRELATION, DIVERGENCE, TOP1
from tekapctl.experiments.studies.study import STUDIES, Base, Design, Study


@STUDIES.register("agreement")
class Agreement(Study):
    """Agreement, divergence, and correlations between classes, of student and teacher on the test images."""

    question: ClassVar[str] = (
        "Are students of TeKAP nearer to their teacher, in classes, probabilities and correlations?"
    )

    def design(self, base: Base) -> Design:
        """The usual ways but for training alone, which has no teacher to be near to."""
        arms, (name, tekap, without, _) = the_usual(base.spec)
        return Design(
            arms[:-1],
            [
                less(f"{tekap} less {name}", tekap, name),
                less(f"{tekap} less without noise", tekap, without),
            ],
            outcomes=[TOP1, AGREEMENT, DIVERGENCE, CORRELATION, CALIBRATION],
        )
