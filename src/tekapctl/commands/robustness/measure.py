"""What robustness a user asks to be measured."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl.commands.robustness.attacks import FGSM, PGD, Occlusion
from tekapctl.commands.robustness.shift import CORRUPTIONS, SEVERITIES, Corruption, Seen, Shift
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
    """Shifts of the test images, and data sets for a linear probe.

    Attributes:
        attacks: `fgsm`, `pgd`.
        epsilons: Their bounds, in the range from black to white.
        corruptions: Names of corruptions, or `all`.
        severities: Theirs, 1 to 5.
        occlusions: Shares of the images' area.
        probes: Names of data sets.
    """

    attacks: Sequence[str] = ()
    epsilons: Sequence[float] = (EPSILON,)
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = SEVERITIES
    occlusions: Sequence[float] = ()
    probes: Sequence[str] = ()

    def shifts(self) -> list[Shift]:
        """The shifts, in this order.

        Raises:
            UsageError: A name is unknown, or a number is out of range.
        """
        for name, known in ((each, _ATTACKS) for each in self.attacks):
            if name not in known:
                raise unknown_name("attack", name, list(known))
        kinds = list(CORRUPTIONS) if "all" in self.corruptions else list(self.corruptions)
        for kind in kinds:
            if kind not in CORRUPTIONS:
                raise unknown_name("corruption", kind, [*CORRUPTIONS, "all"])
        _check("severity", self.severities, 1, 5)
        _check("epsilon", self.epsilons, 0, 1)
        _check("share of the area", self.occlusions, 0, 1)
        attacks: list[Shift] = [_ATTACKS[name](epsilon) for name in self.attacks for epsilon in self.epsilons]
        corrupted = [Corruption(kind, severity) for kind in kinds for severity in self.severities]
        return [*attacks, *corrupted, *(Occlusion(share) for share in self.occlusions)]


def _check(what: str, values: Sequence[float | int], low: float | int, high: float | int) -> None:
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{value:g} is no {what}.", f"Give a number from {low} to {high}.")


@dataclass(frozen=True)
class Robustness:
    """What a network reaches on shifted images; shares of 1.

    Attributes:
        shift: What was done to the images.
        top1: Share of images whose label is the likeliest class.
        kept: Share of images whose class is the one that it gave the unchanged image.
        teacher_top1: What its teacher reaches on the same images; None without a teacher.
        agreement: Share of these images that both give the same class; None without a teacher.
    """

    shift: str
    top1: float
    kept: float
    teacher_top1: float | None = None
    agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def measure_shifts(
    network: Network,
    image_set: ImageSet,
    shifts: Sequence[Shift],
    *,
    device: torch.device,
    teacher: Network | None = None,
    batch_size: int = 500,
) -> list[Robustness]:
    """Measure a network under each shift, in float32; an attack is made for this network, also where its teacher looks.

    Args:
        network: The network, on the device.
        image_set: The test images.
        shifts: What is done to them, one after the other.
        device: Where to compute.
        teacher: Its teacher, on the device.
        batch_size: Images at a time.
    """
    seen = Seen(network.eval())
    of_teacher = None if teacher is None else Seen(teacher.eval())
    batches = Batches(image_set, batch_size, device=device, padding=0, flip=False, seed=0)
    with torch.no_grad():
        unchanged = torch.cat([seen.logits(pixels).argmax(1) for pixels, *_ in _walk(batches)])
    found = []
    for shift in shifts:
        logger.info("shift: %s", shift.name)
        ours, theirs, labels = [], [], []
        for pixels, given, first in _walk(batches):
            changed = shift(pixels, given, first, seen)
            with torch.no_grad():
                ours.append(seen.logits(changed).argmax(1))
                labels.append(given)
                if of_teacher is not None:
                    theirs.append(of_teacher.logits(changed).argmax(1))
        said, right = torch.cat(ours), torch.cat(labels)
        taught = torch.cat(theirs) if theirs else None
        found.append(
            Robustness(
                shift.name,
                _share(said == right),
                _share(said == unchanged),
                None if taught is None else _share(taught == right),
                None if taught is None else _share(taught == said),
            )
        )
    return found


@torch.no_grad()
def _walk(batches: Batches) -> Iterator[tuple[Float[Tensor, "batch c h w"], Tensor, int]]:
    for batch in batches.in_order():
        yield batch.images.float() / 255, batch.labels, int(batch.index[0])


def _share(found: Tensor) -> float:
    return found.float().mean().item()
