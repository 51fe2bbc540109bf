"""Accuracy of a network on shifted test images."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tekapctl.commands.robustness.shifts import (
    CORRUPTIONS,
    FGSM,
    PGD,
    SEVERITIES,
    Corruption,
    Occlusion,
    Pixels,
    Shift,
    pixel_logits,
)
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.registry import unknown_name

logger = logging.getLogger(__name__)

EPSILON = 8 / 255
_ATTACKS = {"fgsm": FGSM, "pgd": PGD}


@dataclass(frozen=True)
class Request:
    """The robustness measurements to make.

    Attributes:
        attacks: `fgsm`, `pgd`.
        epsilons: L-infinity bounds of the attacks, as fractions of the pixel range.
        corruptions: Names of corruptions, or `all`.
        severities: Severities of the corruptions, 1 to 5.
        occlusions: Occluded fractions of the images' area.
        probes: Names of data sets to train linear probes on.
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
        for name in self.attacks:
            if name not in _ATTACKS:
                raise unknown_name("attack", name, list(_ATTACKS))
        kinds = list(CORRUPTIONS) if "all" in self.corruptions else list(self.corruptions)
        for kind in kinds:
            if kind not in CORRUPTIONS:
                raise unknown_name("corruption", kind, [*CORRUPTIONS, "all"])
        _check("severity", self.severities, 1, 5)
        _check("epsilon", self.epsilons, 0, 1)
        _check("occluded fraction", self.occlusions, 0, 1)
        attacks: list[Shift] = [_ATTACKS[name](epsilon) for name in self.attacks for epsilon in self.epsilons]
        corrupted = [Corruption(kind, severity) for kind in kinds for severity in self.severities]
        return [*attacks, *corrupted, *(Occlusion(fraction) for fraction in self.occlusions)]


def _check(what: str, values: Sequence[float | int], low: float | int, high: float | int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{value:g} is not a valid {what}.", f"Give a number from {low} to {high}.")


@dataclass(frozen=True)
class Robustness:
    """A network's results on shifted images, as fractions.

    Attributes:
        shift: Name of the shift.
        top1: Top-1 accuracy.
        consistency: Fraction of images classified as without the shift.
        teacher_top1: The teacher's top-1 on the same images; None without a teacher.
        agreement: Fraction of images that network and teacher classify alike; None without a teacher.
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
    """Evaluate a network under each shift, in float32. Attacks target this network; its teacher sees the same images.

    Args:
        network: The network, on the device.
        image_set: The test images.
        shifts: The shifts, each applied to the original images.
        device: Where to compute.
        teacher: Its teacher, on the device.
        batch_size: Images per forward pass.
    """
    network.eval()
    batches = Batches(image_set, batch_size, device=device, padding=0, flip=False, seed=0)
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
