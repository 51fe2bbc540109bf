"""The teacher's embeddings of some training images of each class, for methods that compare classes."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.engine.device import autocast
from tekapctl.errors import UsageError
from tekapctl.models import Network

_TOGETHER = 100


@torch.no_grad()
def class_features(
    network: Network, images: ImageSet, device: torch.device, precision: torch.dtype, most: int
) -> Float[Tensor, "classes images width"]:
    """Embeddings of the same number of unaugmented images of each class.

    Args:
        network: The teacher, on the device, in evaluation mode.
        images: The training set.
        device: Where to compute.
        precision: Precision of the network's passes.
        most: Images of a class, at most.

    Raises:
        UsageError: A class has fewer than two.
    """
    chosen = chosen_images(images.labels, len(images.classes), most)
    part = replace(images, images=images.images[chosen], labels=images.labels[chosen], numbers=None, whole=None)
    found = []
    for batch in Batches(part, _TOGETHER, device=device, padding=0, flip=False, seed=0).in_order():
        with autocast(device, precision):
            said = network.knowledge(network.normalize(batch.images), stages=False)
        found.append(said.embedding.float())
    return torch.cat(found).unflatten(0, (len(images.classes), -1))


def chosen_images(labels: Int64[Tensor, " n"], classes: int, most: int) -> Int64[Tensor, " chosen"]:
    """The first images of each class, class by class.

    Raises:
        UsageError: A class has fewer than two.
    """
    counts = labels.bincount(minlength=classes)
    count = min(most, int(counts.min()))
    if count < 2:
        raise UsageError(
            "The method compares classes by at least two training images of each, and one class has fewer.",
            "Use more of the training set, or another method.",
        )
    starts = counts.cumsum(0) - counts
    order = labels.argsort(stable=True)
    return order[(starts.unsqueeze(1) + torch.arange(count)).flatten()]
