"""What is exported: a trained network with the images that it is checked with."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tekapctl import data
from tekapctl.commands.evaluate import best_of, data_of
from tekapctl.data.batches import CPU, Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DataSpec
from tekapctl.models import Network
from tekapctl.models.external import Arguments
from tekapctl.models.folding import fold
from tekapctl.models.hooks import Adapted, Watch
from tekapctl.store.home import Home
from tekapctl.store.weights import read_metadata
from tekapctl.train import trained
from tekapctl.train.trained import Preparation, Trained


@dataclass(frozen=True)
class Subject:
    """A trained network with all that its export needs.

    Attributes:
        trained: The network, on the CPU.
        data: Its data set.
        splits: The data set's images, in the channels that the network takes.
        preparation: How an image becomes what the network takes.
        metadata: What is written into the file: model, data set, classes, mean, std and what else is known.
    """

    trained: Trained
    data: DataSpec
    splits: Splits
    preparation: Preparation
    metadata: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by number."""
        return self.splits.test.classes

    @property
    def example(self) -> Float[Tensor, "batch c h w"]:
        """Some images, to trace the network with."""
        # Two: a batch of one would be traced as a network for one image.
        picked = torch.arange(2) % len(self.splits.test)
        pixels = Batches(self.splits.test, 2, device=CPU, padding=0, flip=False, seed=0).at(
            picked, torch.zeros_like(picked)
        )
        return self.trained.network.normalize(pixels)

    def bare(self) -> nn.Module:
        """From images to logits, to be traced: batch norms folded into convolutions where that leaves what it says."""
        folded = fold(self.trained.network, self.example).network
        return without_watches(folded) if isinstance(folded, Adapted) else folded


def without_watches(adapted: Adapted) -> nn.Module:
    """The classifier inside an adapted network, without what looks into it; the adapted network is of no more use."""
    for module in adapted.network.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Watch):
                del module._forward_hooks[key]
    return adapted.network


def normalized(images: ImageSet, network: Network, batch_size: int) -> Iterator[Float[Tensor, "_batch c h w"]]:
    """Images in batches, in order, on the CPU, as a network takes them."""
    for batch in Batches(images, batch_size, device=CPU, padding=0, flip=False, seed=0).in_order():
        yield network.normalize(batch.images).contiguous()


def load_subject(
    home: Home,
    name: str,
    *,
    model: str | None = None,
    arguments: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
) -> Subject:
    """The trained network that a user means, with its data set.

    Args:
        home: Where runs and fetched teachers are.
        name: A run, a checkpoint file, or a fetched teacher.
        model: The network of a checkpoint file that does not say it.
        arguments: Its arguments, where it is from elsewhere.
        best: Take a run's best epoch's weights, not the last's.
        dataset: The data set's name; the one it was trained on if None.
        folder: A folder with the data set's files.

    Raises:
        UsageError: Network or data are not to be had, or do not fit.
    """
    reference = trained.find(home, name, dataset=dataset)
    if best:
        reference = best_of(reference)
    found = trained.load(reference, model=model, arguments=arguments)
    section = data_of(found, dataset, folder)
    splits = data.load(section, home.datasets, seed=_seed(reference), in_channels=found.network.in_channels)
    trained.fit_to(found, splits.test, section.described)
    normalization = found.network.normalization
    assert normalization is not None
    channels, height, width = splits.test.image_shape
    height, width = normalization.size or (height, width)
    preparation = Preparation((height, width), normalization.mean, normalization.std, splits.test.middle)
    stated = read_metadata(reference.path) if reference.path.suffix == ".safetensors" else {}
    metadata = {
        "model_args": json.dumps(dict(arguments or {})),
        **stated,
        "format": "tekapctl weights 1",
        "model": found.model,
        "dataset": section.name,
        "num_classes": str(len(splits.test.classes)),
        "classes": json.dumps(splits.test.classes),
        "in_channels": str(channels),
        "image_size": f"{height}x{width}",
        "mean": json.dumps(preparation.mean),
        "std": json.dumps(preparation.std),
        "middle": str(preparation.middle),
        "source_sha256": found.digest,
    }
    return Subject(found, section, splits, preparation, metadata)


def _seed(reference: trained.Reference) -> int:
    """The run's, which says what share of the training images it saw."""
    from tekapctl.spec import load_of_run

    return load_of_run(reference.run.path).seed if reference.run else 0


def spread(images: ImageSet, count: int | None) -> ImageSet:
    """So many images of a set, evenly spread over it; all of them if None or if there are no more."""
    if count is None or count >= len(images):
        return images
    chosen = torch.arange(count) * len(images) // count
    taken: dict[str, Any] = {"images": images.images[chosen], "labels": images.labels[chosen]}
    return ImageSet(classes=images.classes, mean=images.mean, std=images.std, **taken)
