"""Transfer to another data set: a linear probe on a network's frozen embeddings."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.models import Network
from tekapctl.randomness import generator

_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT = 0.2
_STEPS = 200


@dataclass(frozen=True)
class Transfer:
    """Result of a linear probe.

    Attributes:
        dataset: The data set that the probe was trained and tested on.
        top1: Test accuracy, a fraction.
        weight_decay: The selected weight decay.
        teacher_top1: Test accuracy with the teacher's embeddings; None without a teacher.
    """

    dataset: str
    top1: float
    weight_decay: float
    teacher_top1: float | None = None


def linear_probe(
    network: Network,
    splits: Splits,
    *,
    device: torch.device,
    size: tuple[int, int] | None = None,
    batch_size: int = 500,
) -> tuple[float, float]:
    """Fit multinomial logistic regression on standardised embeddings; returns its test top-1 and its weight decay.

    The weight decay is selected on a held-out fifth of the training images; the regression is then fitted to all of
    them. Images are not augmented.

    Args:
        network: The network, on the device.
        splits: The data set, with as many channels as the network takes.
        device: Where to compute.
        size: Height and width to resize images to; None keeps theirs.
        batch_size: Images per forward pass.
    """
    (train, labels), (test, expected) = (
        _embeddings(network, part, device, size, batch_size) for part in (splits.train, splits.test)
    )
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    classes = len(splits.train.classes)
    order = torch.randperm(len(train), generator=generator(torch.device("cpu"), 0, "probe")).to(device)
    held_out, rest = order.tensor_split([max(1, round(_HELD_OUT * len(train)))])
    scores = [
        (_accuracy(fit(train[rest], labels[rest], classes, decay), train[held_out], labels[held_out]), decay)
        for decay in _DECAYS
    ]
    decay = max(scores)[1]
    return _accuracy(fit(train, labels, classes, decay), test, expected), decay


def fit(
    features: Float[Tensor, "n width"], labels: Int64[Tensor, " n"], classes: int, weight_decay: float
) -> Float[Tensor, "classes _width_and_one"]:
    """Multinomial logistic regression by L-BFGS; returns the weights, with the biases as the last column.

    Minimises the mean cross-entropy plus `weight_decay / 2` times the sum of squared weights, biases excluded.

    Args:
        features: Features of each sample.
        labels: Class of each sample.
        classes: Number of classes.
        weight_decay: Weight of the penalty.
    """
    weights = features.new_zeros(classes, features.shape[1] + 1).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(features, weights[:, :-1], weights[:, -1])
        value = F.cross_entropy(logits, labels) + 0.5 * weight_decay * weights[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def _accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    return (F.linear(features, weights[:, :-1], weights[:, -1]).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def _embeddings(
    network: Network, part: ImageSet, device: torch.device, size: tuple[int, int] | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    batches = Batches(part, batch_size, device=device, padding=0, flip=False, seed=0)
    embeddings = []
    for batch in batches.in_order():
        pixels = batch.images
        if size is not None and pixels.shape[2:] != size:
            pixels = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        embeddings.append(network.eval().knowledge(network.normalize(pixels), feature_maps=False).embedding.float())
    return torch.cat(embeddings), batches.labels
