"""Robustness on shifted test images, and transfer to other datasets by linear probes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tekapctl.commands.shifts import CORRUPTIONS, FGSM, PGD, Corruption, Occlusion, Pixels, Shift, pixel_logits
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.randomness import generator
from tekapctl.registry import unknown_name

logger = logging.getLogger(__name__)

EPSILON = 8 / 255
SEVERITIES = (1, 2, 3, 4, 5)
_ATTACKS = {"fgsm": FGSM, "pgd": PGD}
_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT = 0.2
_STEPS = 200


@dataclass(frozen=True)
class Request:
    """The robustness measurements to make.

    Attributes:
        attacks: `fgsm`, `pgd`.
        epsilons: L-infinity bounds of the attacks, as fractions of the pixel range.
        corruptions: Names of corruptions, or `all`.
        severities: Severities of the corruptions, 1 to 5.
        occlusions: Occluded fractions of the images' area.
        probes: Names of datasets to train linear probes on.
    """

    attacks: Sequence[str] = ()
    epsilons: Sequence[float] = (EPSILON,)
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    occlusions: Sequence[float] = ()
    probes: Sequence[str] = ()

    def shifts(self) -> list[Shift]:
        """The shifts: attacks, corruptions, occlusions.

        Raises:
            UsageError: A name is unknown, or a number is out of range.
        """
        kinds = list(CORRUPTIONS) if "all" in self.corruptions else list(self.corruptions)
        for what, names, known in (("attack", self.attacks, [*_ATTACKS]), ("corruption", kinds, [*CORRUPTIONS, "all"])):
            for name in names:
                if name not in known:
                    raise unknown_name(what, name, known)
        _check("severity", self.severities, 1, 5)
        _check("epsilon", self.epsilons, 0, 1)
        _check("occluded fraction", self.occlusions, 0, 1)
        return [
            *(_ATTACKS[name](epsilon) for name in self.attacks for epsilon in self.epsilons),
            *(Corruption(kind, severity) for kind in kinds for severity in self.severities),
            *(Occlusion(fraction) for fraction in self.occlusions),
        ]


def _check(what: str, values: Sequence[float | int], low: float | int, high: float | int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{value:g} is not a valid {what}.", f"Give a number from {low} to {high}.")


@dataclass(frozen=True)
class Robustness:
    """A network's results on shifted images, as fractions; the teacher's are None without one.

    `consistency` is that of images classified as without the shift, `agreement` that of images that network and teacher
    classify alike.
    """

    shift: str
    top1: float
    consistency: float
    teacher_top1: float | None = None
    agreement: float | None = None


def evaluate_shifts(
    network: Network,
    image_set: ImageSet,
    shifts: Sequence[Shift],
    *,
    device: torch.device,
    teacher: Network | None = None,
    batch_size: int = 500,
) -> list[Robustness]:
    """Evaluate a network under each shift of the original images, in float32.

    Attacks target this network; its teacher sees the same images. Both are on the device.
    """
    network.eval()
    batches = Batches(image_set, batch_size, device=device)
    unchanged = torch.cat([_classes(network, pixels) for pixels, *_ in _walk(batches)])
    results = []
    for shift in shifts:
        logger.info("shift: %s", shift.name)
        student_classes, teacher_classes, labels = [], [], []
        for pixels, batch_labels, first in _walk(batches):
            shifted = shift(pixels, batch_labels, first, network)
            labels.append(batch_labels)
            student_classes.append(_classes(network, shifted))
            if teacher is not None:
                teacher_classes.append(_classes(teacher.eval(), shifted))
        predicted, expected = torch.cat(student_classes), torch.cat(labels)
        result = Robustness(shift.name, _fraction(predicted == expected), _fraction(predicted == unchanged))
        if teacher_classes:
            by_teacher = torch.cat(teacher_classes)
            result = replace(
                result,
                teacher_top1=_fraction(by_teacher == expected),
                agreement=_fraction(by_teacher == predicted),
            )
        results.append(result)
    return results


@torch.no_grad()
def _classes(network: Network, pixels: Pixels) -> Tensor:
    return pixel_logits(network, pixels).argmax(1)


def _walk(batches: Batches) -> Iterator[tuple[Pixels, Tensor, int]]:
    for batch in batches.in_order():
        yield batch.images.float() / 255, batch.labels, int(batch.index[0])


def _fraction(hits: Tensor) -> float:
    return hits.float().mean().item()


@dataclass(frozen=True)
class Transfer:
    """A linear probe's test accuracies on a dataset, as fractions: with the network's and its teacher's embeddings."""

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
    them. Images are not augmented, but resized to the height and width `size`, if given.
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
    batches = Batches(part, batch_size, device=device)
    embeddings = []
    for batch in batches.in_order():
        pixels = batch.images
        if size is not None and pixels.shape[2:] != size:
            pixels = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        embeddings.append(network.eval().knowledge(network.normalize(pixels), feature_maps=False).embedding.float())
    return torch.cat(embeddings), batches.labels
