"""Studies of what TeKAP changes besides top-1 accuracy on the usual dataset."""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from tekapctl.commands.robustness import Request
from tekapctl.commands.shifts import CORRUPTIONS
from tekapctl.experiments.studies.contrasts import AGREEMENT, CALIBRATION, CORRELATION, DIVERGENCE, TOP1, probed, under
from tekapctl.experiments.studies.study import STUDIES, Design, Study, StudySetup, over_axis, standard_arms

Fraction = Annotated[float, Field(gt=0, le=1)]


@STUDIES.register("agreement")
class Agreement(Study):
    """Agreement, divergence and class correlations between student and teacher on the test images."""

    question: ClassVar[str] = "Do TeKAP students match their teacher better in classes, probabilities and correlations?"

    def design(self, setup: StudySetup) -> Design:
        """The standard arms except no distillation, which has no teacher to match."""
        arms, labels = standard_arms(setup.spec)
        outcomes = [TOP1, AGREEMENT, DIVERGENCE, CORRELATION, CALIBRATION]
        return Design(arms[:-1], labels.contrasts()[:-1], outcomes)


@STUDIES.register("few-shot")
class FewShot(Study):
    """Fractions of each class's training images for the student; the teacher is trained on all images."""

    question: ClassVar[str] = "Does TeKAP help more when the student has fewer images?"
    fractions: Annotated[
        tuple[Fraction, ...],
        Field(min_length=1, description="Fractions of each class's images, out of those that the spec uses."),
    ] = (0.05, 0.1, 0.25, 0.5, 1.0)

    def design(self, setup: StudySetup) -> Design:
        whole = setup.spec.data.train_fraction
        fractions = [fraction * whole for fraction in sorted(set(self.fractions))]
        return _over_data(setup, "train_fraction", fractions, "fraction", "fraction of the training images")


@STUDIES.register("imbalance")
class Imbalance(Study):
    """Long-tailed training sets (Cao et al., NeurIPS 2019); the teacher is trained on all images."""

    question: ClassVar[str] = "Does TeKAP help more on long-tailed training sets?"
    factors: Annotated[
        tuple[Annotated[float, Field(ge=1)], ...],
        Field(min_length=1, description="Imbalance factors: images of the largest class / images of the smallest."),
    ] = (10.0, 20.0, 50.0, 100.0)

    def design(self, setup: StudySetup) -> Design:
        return _over_data(setup, "imbalance", sorted(set(self.factors)), "imbalance", "imbalance factor")


def _over_data(setup: StudySetup, field: str, values: list[float], setting: str, axis: str) -> Design:
    specs = {}
    for value in values:
        data = setup.spec.data.model_copy(update={field: value})
        specs[value] = setup.spec.model_copy(update={"data": data})
    return over_axis(specs, setting, axis)


@STUDIES.register("robustness")
class Robustness(Study):
    """Adversarial attacks on each network, common corruptions, and occlusion of the test images."""

    question: ClassVar[str] = "Are TeKAP students more robust to adversarial attacks, corruptions and occlusion?"
    epsilons: tuple[Fraction, ...] = Field(
        (2 / 255, 8 / 255), description="L-inf perturbation budgets of attacks (pixel range 0 to 1)."
    )
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field(
        (1, 3, 5), description="Severities of the corruptions, 1 to 5."
    )
    occlusions: tuple[Fraction, ...] = Field((0.1, 0.25), description="Fractions of the image area to occlude.")
    limit: int = Field(2000, ge=1, description="Number of test images, evenly spaced.")

    def design(self, setup: StudySetup) -> Design:
        arms, labels = standard_arms(setup.spec)
        attacks = ("fgsm", "pgd") if self.epsilons else ()
        corruptions = tuple(CORRUPTIONS) if self.severities else ()
        request = Request(attacks, self.epsilons, corruptions, self.severities, self.occlusions)
        kinds = {
            "FGSM": replace(request, attacks=attacks[:1], corruptions=(), occlusions=()),
            "PGD": replace(request, attacks=attacks[1:], corruptions=(), occlusions=()),
            "corruptions": replace(request, attacks=(), occlusions=()),
            "occlusion": replace(request, attacks=(), corruptions=()),
        }
        shifts = {kind: [shift.name for shift in each.shifts()] for kind, each in kinds.items()}
        outcomes = [TOP1, *(under(kind, names) for kind, names in shifts.items() if names)]
        return Design(arms, labels.contrasts(), outcomes, request, self.limit)


_PUBLISHED = ("stl10", "tiny-imagenet")
"""On which published tables probe networks trained on CIFAR-100."""


@STUDIES.register("transfer")
class Transfer(Study):
    """Linear probes on the frozen embeddings of other datasets' images."""

    question: ClassVar[str] = "Do the embeddings of TeKAP students transfer better to other datasets?"
    datasets: Annotated[
        tuple[str, ...],
        Field(description="Datasets; empty for stl10 and tiny-imagenet (published), or an available small one."),
    ] = ()

    def design(self, setup: StudySetup) -> Design:
        arms, labels = standard_arms(setup.spec)
        datasets = self.datasets or setup.spec.data.transfers_to or _PUBLISHED
        outcomes = [TOP1, *(probed(dataset) for dataset in datasets)]
        return Design(arms, labels.contrasts(), outcomes, request=Request(probes=datasets))
