"""Classify images with an exported file, as its runtime computes them."""

from pathlib import Path

import torch
from torch import Tensor

from tekapctl.commands.export.format import FORMATS, Format
from tekapctl.commands.predict import Predictor
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.errors import TekapctlError, UsageError, first_line
from tekapctl.models.normalization import Normalization
from tekapctl.store.home import expand_user
from tekapctl.train.metadata import Preprocessing, read_class_names, read_preprocessing


def exported_file(name: str) -> tuple[Format, Path] | None:
    """The format and the path of an exported graph; None for other names, such as a run's.

    Raises:
        UsageError: There is no such file.
    """
    path = expand_user(name)
    found = next((FORMATS[kind]() for kind in FORMATS if FORMATS[kind].suffix == path.suffix), None)
    if found is None or not found.has_graph:
        return None
    if not path.exists():
        raise UsageError(f"There is no file {name!r}.", "Write one with `tekapctl export RUN --output FILE`.")
    return found, path


def predictor_of_file(chosen: Format, path: Path, *, batch_size: int = 64, workers: int | None = None) -> Predictor:
    """The predictor of an exported file, on the CPU. Images are decoded as for the run that it was exported from.

    Args:
        chosen: The file's format.
        path: The file.
        batch_size: Most images of a forward pass.
        workers: Processes that decode images.

    Raises:
        UsageError: The runtime is not installed, or the file is damaged or was not exported by this program.
    """
    try:
        metadata, runner = chosen.metadata(path), chosen.open(path)
    except TekapctlError:
        raise
    except Exception as error:  # runtimes raise anything
        raise UsageError(f"{path} cannot be read: {first_line(error)}.", "Export it again.") from None
    channels, count = (metadata.get(name, "") for name in ("in_channels", "num_classes"))
    whole = channels.isdecimal() and count.isdecimal()
    prepared = read_preprocessing(metadata, int(channels), str(path)) if whole else None
    classes = read_class_names(metadata, int(count), str(path)) if whole else None
    if runner is None or prepared is None or classes is None:
        raise UsageError(
            f"{path} does not state its preprocessing and its classes.", "Use a file that `tekapctl export` wrote."
        )
    is_inside = metadata.get("preprocessing") != "outside"
    normalization = Normalization(prepared.mean, prepared.std)

    @torch.inference_mode()
    def classify(pixels: Tensor) -> Tensor:
        if is_inside:
            return runner(pixels.permute(0, 2, 3, 1).contiguous()).float()
        return runner(normalization(pixels).contiguous()).float().softmax(1)

    shown = metadata.get("image_channels", channels)
    files = _files(int(shown) if shown.isdecimal() else int(channels), prepared, is_inside=is_inside)
    name = metadata.get("model", path.name)
    return Predictor(classify, name, classes, files, batch_size=batch_size, workers=workers)


def _files(channels: int, prepared: Preprocessing, *, is_inside: bool) -> ImageFiles:
    """How files are decoded: to the size of the network's images, of which a graph takes the same centre crop."""
    if not is_inside:
        return ImageFiles((), channels, prepared.size, prepared.crop_fraction)
    height, width = (round(side / prepared.crop_fraction) for side in prepared.size)
    return ImageFiles((), channels, (height, width))
