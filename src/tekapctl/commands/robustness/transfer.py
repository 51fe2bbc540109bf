"""Transfer by linear probe: what a network's frozen embeddings tell of another data set."""

from dataclasses import asdict, dataclass
from typing import Any

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
    """What a linear probe reaches.

    Attributes:
        dataset: The data set that it was trained on and tested with.
        top1: Share of its test images whose label is the likeliest class.
        weight_decay: The weight decay that was chosen.
        teacher_top1: The same of the teacher's embeddings; None without a teacher.
    """

    dataset: str
    top1: float
    weight_decay: float
    teacher_top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def linear_probe(
    network: Network,
    splits: Splits,
    *,
    device: torch.device,
    size: tuple[int, int] | None = None,
    batch_size: int = 500,
) -> tuple[float, float]:
    """Top-1 on the test images of multinomial logistic regression on a network's embeddings, and its weight decay.

    The embeddings are standardised, the images are shown as they are. The weight decay is the one that does best on a
    fifth of the training images; the regression is then fitted to all of them.

    Args:
        network: The network, on the device.
        splits: The data set, in the network's channels.
        device: Where to compute.
        size: Height and width to which images are brought; None leaves them.
        batch_size: Images at a time.
    """
    (train, labels), (test, expected) = (
        _embeddings(network, part, device, size, batch_size) for part in (splits.train, splits.test)
    )
    mean, deviation = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes = len(splits.train.classes)
    order = torch.randperm(len(train), generator=generator(torch.device("cpu"), 0, "probe")).to(device)
    held = max(1, round(_HELD_OUT * len(train)))
    out, kept = order[:held], order[held:]
    scores = [
        (_accuracy(fit(train[kept], labels[kept], classes, decay), train[out], labels[out]), decay) for decay in _DECAYS
    ]
    decay = max(scores)[1]
    return _accuracy(fit(train, labels, classes, decay), test, expected), decay


def fit(
    features: Float[Tensor, "n width"], labels: Int64[Tensor, " n"], classes: int, weight_decay: float
) -> Float[Tensor, "classes _width_and_one"]:
    """Multinomial logistic regression by L-BFGS: weights, with the biases as the last column.

    They minimise the mean cross-entropy plus half the decay times the sum of the weights' squares.

    Args:
        features: Of each sample.
        labels: Of each sample.
        classes: How many there are.
        weight_decay: Of the weights, not of the biases.
    """
    weights = features.new_zeros(classes, features.shape[1] + 1).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = F.linear(features, weights[:, :-1], weights[:, -1])
        found = F.cross_entropy(scores, labels) + 0.5 * weight_decay * weights[:, :-1].square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return weights.detach()


def _accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    return (F.linear(features, weights[:, :-1], weights[:, -1]).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def _embeddings(
    network: Network, part: ImageSet, device: torch.device, size: tuple[int, int] | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    batches = Batches(part, batch_size, device=device, padding=0, flip=False, seed=0)
    found = []
    for batch in batches.in_order():
        pixels = batch.images
        if size is not None and pixels.shape[2:] != size:
            pixels = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        found.append(network.eval().knowledge(network.normalize(pixels), feature_maps=False).embedding.float())
    return torch.cat(found), batches.labels
