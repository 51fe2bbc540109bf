"""Whether an exported network says what the PyTorch network says, and how fast each is."""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.commands.export.format import Runner
from tekapctl.commands.export.subject import normalized
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import TekapctlError
from tekapctl.models import Network

BATCH_SIZE = 100


@dataclass(frozen=True)
class Answers:
    """What a network says of an image set.

    Attributes:
        logits: In the order of the images.
        labels: Of the images.
        images_per_second: Speed, from the median time of a batch.
    """

    logits: Float[Tensor, "n classes"]
    labels: Int64[Tensor, " n"]
    images_per_second: float

    @property
    def top1(self) -> float:
        """Share of images whose label is the likeliest class."""
        return (self.logits.argmax(1) == self.labels).double().mean().item()


@dataclass(frozen=True)
class Comparison:
    """An exported network beside the PyTorch one, on the same images; shares are fractions of 1.

    Attributes:
        images: How many images were looked at.
        batch_size: How many at a time.
        largest_difference: Largest absolute difference of two logits.
        largest_logit: Largest absolute logit of the PyTorch network.
        agreement: Share of images to which both give the same class.
        top1: Accuracy of the exported network.
        torch_top1: Accuracy of the PyTorch network.
        images_per_second: Speed of the exported network on the CPU.
        torch_images_per_second: Speed of the PyTorch network on the CPU, in float32.
    """

    images: int
    batch_size: int
    largest_difference: float
    largest_logit: float
    agreement: float
    top1: float
    torch_top1: float
    images_per_second: float
    torch_images_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def check_same(self, tolerance: float) -> None:
        """Refuse a network that says something else.

        Args:
            tolerance: Largest difference allowed, as a share of the largest logit.

        Raises:
            TekapctlError: The logits differ by more.
        """
        # Written so that a difference that is no number is refused too.
        if not self.largest_difference <= tolerance * self.largest_logit:
            raise TekapctlError(
                f"The exported network differs: its logits are up to {self.largest_difference:.3g} off on "
                f"{self.images:,} images, with logits up to {self.largest_logit:.3g} and a tolerance of {tolerance:g} "
                "of that.",
                "Nothing was written; use another --format, or a larger --tolerance if that is good enough.",
            )

    def check_accurate(self, most_lost: float) -> None:
        """Refuse a network that has lost too much accuracy.

        Args:
            most_lost: Share of the images by which accuracy may be lower.

        Raises:
            TekapctlError: It is lower by more.
        """
        lost = self.torch_top1 - self.top1
        if not lost <= most_lost:
            raise TekapctlError(
                f"The int8 network has lost too much: top-1 {100 * self.top1:.2f} % against "
                f"{100 * self.torch_top1:.2f} %, and {100 * most_lost:g} points may be lost.",
                "Nothing was written; export without --int8, or give more --calibration-images or --max-accuracy-drop.",
            )


def ask(runner: Runner, images: ImageSet, network: Network, batch_size: int = BATCH_SIZE) -> Answers:
    """The logits of all images, and the speed; the first batch is run once before, to warm up.

    Args:
        runner: What is measured.
        images: The images.
        network: Whose normalization the images get.
        batch_size: Images per batch.
    """
    logits, seconds = [], []
    for number, batch in enumerate(normalized(images, network, batch_size)):
        if number == 0:
            runner(batch)
        began = time.perf_counter()
        logits.append(runner(batch))
        seconds.append((time.perf_counter() - began) / len(batch))
    # The last batch may have few images, which tell little of the speed.
    whole = seconds[:-1] or seconds
    return Answers(torch.cat(logits).float(), images.labels, 1 / statistics.median(whole))


def compare(found: Answers, expected: Answers, batch_size: int = BATCH_SIZE) -> Comparison:
    """An exported network's answers beside the PyTorch network's, for the same images."""
    return Comparison(
        images=len(expected.labels),
        batch_size=batch_size,
        largest_difference=(found.logits - expected.logits).abs().amax().item(),
        largest_logit=expected.logits.abs().amax().item(),
        agreement=(found.logits.argmax(1) == expected.logits.argmax(1)).double().mean().item(),
        top1=found.top1,
        torch_top1=expected.top1,
        images_per_second=found.images_per_second,
        torch_images_per_second=expected.images_per_second,
    )
