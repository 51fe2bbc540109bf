"""How an exported file compares with the PyTorch network: outputs, accuracy and latency on the same images."""

import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from tekapctl.commands.export.format import ExportSource, Runner, run_module
from tekapctl.data.files.decoding import DamagedImageError, decode, decode_whole
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_files import ImageFilesSpec
from tekapctl.data.image_set import ImageSet
from tekapctl.errors import TekapctlError

_SECONDS = 0.1
"""A latency is the median of the runs of a batch that fit into this time, but of at least three."""
_MOST_FILES = 100
"""Image files that are compared at their full size."""


@dataclass(frozen=True)
class Comparison:
    """An exported network compared with the PyTorch network on the same images; rates are fractions.

    The `output` is what is compared: probabilities, or logits of a file without preprocessing. Times are medians on the
    CPU.
    """

    images: int
    output: str
    largest_difference: float
    largest_output: float
    agreement: float
    top1: float
    torch_top1: float
    seconds_batch_1: float
    seconds_batch_32: float

    def check_outputs(self, tolerance: float) -> None:
        """Check that outputs are equal up to a tolerance relative to the largest output.

        Raises:
            TekapctlError: They are not.
        """
        # `not <=`, so that NaN fails.
        if not self.largest_difference <= tolerance * self.largest_output:
            raise TekapctlError(
                f"The exported network differs: its {self.output} are off by up to {self.largest_difference:.3g} on "
                f"{self.images:,} images, with {self.output} up to {self.largest_output:.3g} and a relative tolerance "
                f"of {tolerance:g}.",
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


@dataclass(frozen=True)
class FullSize:
    """Image files at their full size, resized in the graph, compared with the evaluation, which resizes them itself.

    Differences are of probabilities, `mean_difference` of the most likely class's.
    """

    images: int
    agreement: float
    largest_difference: float
    mean_difference: float


class Check:
    """Compares files with the PyTorch network, which it runs once."""

    def __init__(self, source: ExportSource, images: ImageSet, downloads: Path) -> None:
        self.images = images
        self._source = source
        network = source.trained.network
        self._network = run_module(lambda pixels: network(network.normalize(pixels)).softmax(1))
        self._logits = torch.cat([run_module(network)(batch) for batch in source.batches(images, has_graph=False)])
        first = next(source.having("float32", includes_preprocessing=True).batches(images, has_graph=True, size=32))
        self._pixels = _repeat(first)
        pixels = self._pixels.permute(0, 3, 1, 2).repeat(1, network.in_channels // source.channels, 1, 1)
        self.seconds = tuple(latency(self._network, pixels[:count]) for count in (1, 32))
        self.top1 = _fraction(self._logits.argmax(1) == images.labels)
        self._files = _some_files(source, downloads)

    def compare(self, runner: Runner, source: ExportSource, *, has_graph: bool) -> Comparison:
        """Compare a file."""
        is_whole = has_graph and source.includes_preprocessing
        is_cropped = is_whole and source.preprocessing.crop_fraction < 1
        if is_cropped:
            # The set's images are cropped already, so that a graph has to get their files.
            deployed = run_module(source.having("float32", includes_preprocessing=True).deployed())
            pairs = [(runner(whole), deployed(whole)) for whole in map(self._whole, self._paths())]
            found, expected = (torch.cat(each).float() for each in zip(*pairs, strict=True))
        else:
            found = torch.cat([runner(batch) for batch in source.batches(self.images, has_graph=has_graph)]).float()
            expected = self._logits.softmax(1) if is_whole else self._logits
        batch = self._pixels if is_whole else _repeat(next(source.batches(self.images, has_graph=has_graph, size=32)))
        one, many = (latency(runner, batch[:count].contiguous()) for count in (1, 32))
        return Comparison(
            images=len(self.images),
            output="probabilities" if is_whole else "logits",
            largest_difference=(found - expected).abs().amax().item(),
            largest_output=expected.abs().amax().item(),
            agreement=_fraction(found.argmax(1) == self._logits.argmax(1)),
            top1=_fraction(found.argmax(1) == self.images.labels),
            torch_top1=self.top1,
            seconds_batch_1=one,
            seconds_batch_32=many,
        )

    def compare_files(self, runner: Runner) -> FullSize | None:
        """Compare a graph with preprocessing on files at their full size; None without such files."""
        if not self._files:
            return None
        outputs = []
        for path in self._files:
            with suppress(DamagedImageError):
                outputs.append((runner(self._whole(path)), self._network(self._resized(path))))
        if not outputs:
            return None
        found, expected = (torch.cat(each).float() for each in zip(*outputs, strict=True))
        best = expected.argmax(1)
        difference = (found - expected).abs()
        return FullSize(
            images=len(found),
            agreement=_fraction(found.argmax(1) == best),
            largest_difference=difference.amax().item(),
            mean_difference=difference.gather(1, best.unsqueeze(1)).mean().item(),
        )

    def _paths(self) -> tuple[str, ...]:
        images = self.images.images
        assert isinstance(images, ImageFiles)
        return images.paths

    def _whole(self, path: Path | str) -> UInt8[Tensor, "one h w c"]:
        """An image as a graph takes it."""
        return decode_whole(path, self._source.channels).permute(1, 2, 0).contiguous()[None]

    def _resized(self, path: Path) -> UInt8[Tensor, "one c h w"]:
        """The image as the evaluation decodes it."""
        source = self._source
        pixels = decode(path, source.channels, source.size, center_crop=source.preprocessing.crop_fraction)
        return pixels.repeat(source.trained.network.in_channels // source.channels, 1, 1)[None]


def latency(runner: Runner, batch: Tensor) -> float:
    """Median seconds of a run, after two to warm up."""
    for _ in range(2):
        runner(batch)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < _SECONDS:
        began = time.perf_counter()
        runner(batch)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _some_files(source: ExportSource, downloads: Path) -> list[Path]:
    """Test images in files, evenly chosen; none if the dataset is not in files."""
    if not isinstance(source.data, ImageFilesSpec):
        return []
    files = [path for path, _ in source.data.listing(downloads).test]
    count = min(_MOST_FILES, len(files))
    return [files[number * len(files) // count] for number in range(count)]


def _repeat(images: Tensor) -> Tensor:
    """As many images as the largest batch that is timed has."""
    return images.repeat(-(-32 // len(images)), *(1 for _ in images.shape[1:]))[:32]


def _fraction(hits: Bool[Tensor, " n"]) -> float:
    return hits.double().mean().item()
