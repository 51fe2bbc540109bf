"""What trained networks say of the test images: the numbers behind the report's pictures."""

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
from tekapctl.train import trained
from tekapctl.train.evaluation import class_correlation

_TOGETHER = 250


@dataclass(frozen=True)
class Said:
    """What a network says of the test images.

    Attributes:
        logits: Of each image.
        embeddings: Of each image.
        labels: Of the images.
        classes: Names of the classes, by number.
    """

    logits: Float[Tensor, "n classes"]
    embeddings: Float[Tensor, "n width"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]

    @property
    def confusion(self) -> Float[Tensor, "classes classes"]:
        """Share of each class's images (row) that get each class (column)."""
        count = len(self.classes)
        pairs = torch.bincount(self.labels * count + self.logits.argmax(1), minlength=count * count)
        table = pairs.view(count, count).double()
        return table / table.sum(1, keepdim=True).clamp(min=1)

    @property
    def correlation(self) -> Float[Tensor, "classes classes"]:
        """Correlation of the logits of each two classes over the images."""
        return class_correlation(self.logits)

    def plane(self, most: int) -> tuple[Float[Tensor, "some 2"], Int64[Tensor, " some"], float]:
        """The embeddings of some images, evenly spread over the set, in the plane of their two principal components.

        Args:
            most: How many images at most.

        Returns:
            Points, their labels, and the share of the embeddings' variance that the plane shows.
        """
        chosen = torch.arange(min(most, len(self.labels))) * len(self.labels) // min(most, len(self.labels))
        some = self.embeddings[chosen].double()
        some = some - some.mean(0)
        _, sizes, directions = torch.linalg.svd(some, full_matrices=False)
        shown = sizes[:2].square().sum() / sizes.square().sum().clamp(min=1e-30)
        points = some @ directions[:2].T
        return points[:, :2] if points.shape[1] > 1 else points.repeat(1, 2), self.labels[chosen], shown.item()


class Looker:
    """Asks networks about their test images, each once.

    Args:
        home: Where runs, teachers and data sets are.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._known: dict[tuple[object, ...], tuple[str, Said]] = {}

    def student(self, group: Group) -> Said:
        """What the network of a group's first run says.

        Raises:
            TekapctlError: Its weights or its data are not to be had.
        """
        return self._ask(group, group.first.run.id, model=None, arguments=None)

    def teacher(self, group: Group) -> Said | None:
        """What the (first) teacher of a group's first run says; None of runs without one.

        Raises:
            TekapctlError: It is not to be had, or is another than it was.
        """
        spec = group.first.spec
        if not isinstance(spec, StudentSpec):
            return None
        return self._ask(
            group, spec.teacher, model=spec.teacher_model, arguments=spec.teacher_args, digest=spec.teacher_digest
        )

    def _ask(
        self,
        group: Group,
        name: str,
        *,
        model: str | None,
        arguments: Arguments | None,
        digest: str | None = None,
    ) -> Said:
        section = group.first.spec.data
        key = (name, repr(section), model, repr(arguments))
        if key not in self._known:
            network = trained.load(
                trained.find(self.home, name, dataset=section.name), model=model, arguments=arguments
            )
            section.stamped(self.home.datasets)  # raises if they are no longer the images of the run
            splits = data.load(section, self.home.datasets, seed=0, in_channels=network.network.in_channels)
            self._known[key] = network.digest, _said(network, splits.test)
        found, said = self._known[key]
        if digest not in (None, found):
            raise TekapctlError(f"{name} has other weights than when it taught.", "Train the student anew.")
        return said


@torch.inference_mode()
def _said(trained_network: trained.Trained, images: data.ImageSet) -> Said:
    trained.fit_to(trained_network, images, "the test images")
    batches = Batches(images, _TOGETHER, device=CPU, padding=0, flip=False, seed=0)
    network = trained_network.network
    found = [network.knowledge(network.normalize(batch.images), feature_maps=False) for batch in batches.in_order()]
    logits = torch.cat([each.logits for each in found]).float()
    embeddings = torch.cat([each.embedding for each in found]).float()
    if not (logits.isfinite().all() and embeddings.isfinite().all()):
        raise TekapctlError(f"What {trained_network.model} says is not finite.", "Train it anew with a smaller rate.")
    return Said(logits, embeddings, images.labels, images.classes)
