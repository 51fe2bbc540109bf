"""Compare an exported network with the PyTorch network."""

import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl.commands.export.format import BATCH_SIZE, ExportSource, Runner
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import TekapctlError


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the PyTorch network on the same images; rates are fractions.

    Attributes:
        images: Number of images.
        batch_size: Images per forward pass.
        largest_difference: Largest absolute difference between two logits.
        largest_logit: Largest absolute logit of the PyTorch network.
        agreement: Fraction of images that both classify alike.
        top1: Top-1 accuracy of the exported network.
        torch_top1: Top-1 accuracy of the PyTorch network.
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

    def check_logits(self, tolerance: float) -> None:
        """Check that the logits are equal up to a tolerance relative to the largest logit.

        Raises:
            TekapctlError: They are not.
        """
        # `not <=`, so that NaN fails.
        if not self.largest_difference <= tolerance * self.largest_logit:
            raise TekapctlError(
                f"The exported network differs: its logits are off by up to {self.largest_difference:.3g} on "
                f"{self.images:,} images, with logits up to {self.largest_logit:.3g} and a relative tolerance of "
                f"{tolerance:g}.",
                "Nothing was written. Choose another format, or a larger tolerance if that is good enough.",
            )

    def check_accuracy(self, max_drop: float) -> None:
        """Check that top-1 drops by at most a fraction of the images.

        Raises:
            TekapctlError: It drops by more.
        """
        if not self.torch_top1 - self.top1 <= max_drop:
            raise TekapctlError(
                f"The int8 network is less accurate than allowed: top-1 {100 * self.top1:.2f} % instead of "
                f"{100 * self.torch_top1:.2f} %, with a limit of {100 * max_drop:g} percentage points.",
                "Nothing was written. Export in float32, use more calibration images, or allow a larger accuracy drop.",
            )


class Results(NamedTuple):
    """A network's logits on images, in their order, and its speed from the median time of a batch."""

    logits: Float[Tensor, "n classes"]
    images_per_second: float


def run_all(runner: Runner, source: ExportSource, images: ImageSet) -> Results:
    """Run all images; the first batch runs once more beforehand, to warm up."""
    logits, seconds = [], []
    for number, batch in enumerate(source.normalized(images)):
        if number == 0:
            runner(batch)
        began = time.perf_counter()
        logits.append(runner(batch))
        seconds.append((time.perf_counter() - began) / len(batch))
    # The last batch may be too small to be timed well.
    return Results(torch.cat(logits).float(), 1 / statistics.median(seconds[:-1] or seconds))


def compare(found: Results, expected: Results, images: ImageSet) -> Comparison:
    """Compare an exported network's results with those of the PyTorch network."""
    classes, torch_classes = found.logits.argmax(1), expected.logits.argmax(1)

    def fraction(hits: Tensor) -> float:
        return hits.double().mean().item()

    return Comparison(
        images=len(images),
        batch_size=BATCH_SIZE,
        largest_difference=(found.logits - expected.logits).abs().amax().item(),
        largest_logit=expected.logits.abs().amax().item(),
        agreement=fraction(classes == torch_classes),
        top1=fraction(classes == images.labels),
        torch_top1=fraction(torch_classes == images.labels),
        images_per_second=found.images_per_second,
        torch_images_per_second=expected.images_per_second,
    )
