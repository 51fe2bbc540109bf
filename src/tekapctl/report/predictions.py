"""Predictions of trained networks on the test images, for the report's figures."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl import data
from tekapctl.data.batches import CPU, Batches
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import Group
from tekapctl.models.external import Arguments
from tekapctl.spec import StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import references, trained
from tekapctl.train.evaluation import class_correlation

_BATCH_SIZE = 250


@dataclass(frozen=True)
class Predictions:
    """A network's outputs for the test images."""

    logits: Float[Tensor, "n classes"]
    embeddings: Float[Tensor, "n width"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    @property
    def confusion(self) -> Float[Tensor, "classes classes"]:
        """Fraction of each class's images (row) that are predicted as each class (column)."""
        count = len(self.classes)
        pairs = torch.bincount(self.labels * count + self.logits.argmax(1), minlength=count * count)
        table = pairs.view(count, count).double()
        return table / table.sum(1, keepdim=True).clamp(min=1)

    @property
    def correlation(self) -> Float[Tensor, "classes classes"]:
        """Correlation of each two classes' logits over the images."""
        return class_correlation(self.logits)

    def plane(self, most: int) -> tuple[Float[Tensor, "some 2"], Int64[Tensor, " some"], float]:
        """The first two principal components of the embeddings of at most so many evenly spaced images.

        Returns:
            Points, their labels, and the fraction of variance that is explained.
        """
        chosen = torch.arange(min(most, len(self.labels))) * len(self.labels) // min(most, len(self.labels))
        some = self.embeddings[chosen].double()
        some = some - some.mean(0)
        _, sizes, directions = torch.linalg.svd(some, full_matrices=False)
        shown = sizes[:2].square().sum() / sizes.square().sum().clamp(min=1e-30)
        points = some @ directions[:2].T
        return points[:, :2] if points.shape[1] > 1 else points.repeat(1, 2), self.labels[chosen], shown.item()


class Predictor:
    """Runs networks on their test images, each network once."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._known: dict[tuple[object, ...], tuple[str, Predictions]] = {}

    def student(self, group: Group) -> Predictions:
        """Predictions of a group's first run.

        Raises:
            TekapctlError: Its weights or its data are missing.
        """
        return self._predict(group, group.first.run.id, model=None, arguments=None)

    def teacher(self, group: Group) -> Predictions | None:
        """Predictions of the (first) teacher of a group's first run; None without a teacher.

        Raises:
            TekapctlError: The teacher is missing, or its weights have changed.
        """
        spec = group.first.spec
        if not isinstance(spec, StudentSpec):
            return None
        return self._predict(
            group, spec.teacher, model=spec.teacher_model, arguments=spec.teacher_args, digest=spec.teacher_digest
        )

    def _predict(
        self, group: Group, name: str, *, model: str | None, arguments: Arguments | None, digest: str | None = None
    ) -> Predictions:
        section = group.first.spec.data.labelled
        key = (name, repr(section), model, repr(arguments))
        if key not in self._known:
            network = trained.load(references.find(self.home, name, data=section), model=model, arguments=arguments)
            section.with_fingerprint(self.home.datasets)  # raises if the images have changed since the run
            splits = data.load(section, self.home.datasets, seed=0, in_channels=network.network.in_channels)
            self._known[key] = network.digest, _predictions(network, splits.test)
        found, predictions = self._known[key]
        if digest not in (None, found):
            raise TekapctlError(
                f"The weights of {name} have changed since it taught this student.", "Train the student again."
            )
        return predictions


@torch.inference_mode()
def _predictions(trained_network: trained.Trained, images: data.ImageSet) -> Predictions:
    trained.fit_to(trained_network, images, "the test images")
    batches = Batches(images, _BATCH_SIZE, device=CPU)
    network = trained_network.network
    found = [network.knowledge(network.normalize(batch.images), feature_maps=False) for batch in batches.in_order()]
    logits = torch.cat([each.logits for each in found]).float()
    embeddings = torch.cat([each.embedding for each in found]).float()
    if not (logits.isfinite().all() and embeddings.isfinite().all()):
        raise TekapctlError(
            f"The outputs of {trained_network.model} are not finite.", "Train it again with a smaller learning rate."
        )
    return Predictions(logits, embeddings, images.labels, images.classes)
