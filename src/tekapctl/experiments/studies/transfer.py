"""What TeKAP's embeddings are worth on other data sets."""

from typing import Annotated, ClassVar

from pydantic import Field

from tekapctl.commands.robustness import Request
from tekapctl.experiments.studies.baselines import the_usual
from tekapctl.experiments.studies.contrast import less
from tekapctl.experiments.studies.outcome import TOP1, probed
from tekapctl.experiments.studies.study import STUDIES, Base, Design, Study

_NEAR = {"digits": ("fashion-mnist",), "fashion-mnist": ("digits",)}
_PUBLISHED = ("stl10", "tiny-imagenet")


@STUDIES.register("transfer")
class Transfer(Study):
    """Linear probes on the frozen embeddings of other data sets' images."""

    question: ClassVar[str] = "Do the embeddings of TeKAP's students tell more of other data sets?"
    datasets: Annotated[
        tuple[str, ...],
        Field(description="Data sets; none means stl10 and tiny-imagenet, as published, or one that is at hand."),
    ] = ()

    def design(self, base: Base) -> Design:
        """The usual ways, each network probed on each data set."""
        arms, (name, tekap, without, alone) = the_usual(base.spec)
        datasets = self.datasets or _NEAR.get(base.spec.data.name, _PUBLISHED)
        return Design(
            arms,
            [
                less(f"{tekap} less {name}", tekap, name),
                less(f"{tekap} less without noise", tekap, without),
                less(f"{name} less alone", name, alone),
            ],
            outcomes=[TOP1, *(probed(dataset) for dataset in datasets)],
            request=Request(probes=datasets),
        )
