"""Read and check the metadata in a weights file: architecture, classes, preprocessing and dataset.

Weights files come from anywhere, so every value is checked before it is used.
"""

import json
from dataclasses import dataclass

from torch import Tensor

from tekapctl.data import data_spec
from tekapctl.data.spec import DataSpec
from tekapctl.errors import UsageError
from tekapctl.models import external
from tekapctl.models.network import SMALLEST_IMAGE
from tekapctl.models.normalization import check_normalization

LARGEST_IMAGE = 1024
"""The largest image height and width, in pixels, that a weights file may ask for."""


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a network.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each channel; full brightness is 1.
        std: Standard deviation of each channel.
        crop_fraction: Side of the centre crop as a fraction of the largest centre crop; 1 takes all of it.
        is_grey: Whether images are converted to grey, and their single channel is repeated for the network.
        train_size: Height and width of its training images, if they had another size.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_fraction: float = 1.0
    is_grey: bool = False
    train_size: tuple[int, int] | None = None


def read_preprocessing(metadata: dict[str, str], channels: int, source: str) -> Preprocessing | None:
    """The preprocessing that a file states, or None if it states none.

    Raises:
        UsageError: The values are damaged or out of range.
    """
    if "mean" not in metadata:
        return None
    values = [
        _parse(metadata.get(key, ""), source, what)
        for key, what in (("mean", "channel means"), ("std", "channel standard deviations"))
    ]
    numbers = [value for value in values if isinstance(value, list) and len(value) == channels]
    try:
        mean, std = (tuple(float(number) for number in value) for value in numbers)
        check_normalization(mean, std)
        crop_fraction = float(metadata.get("middle", 1))
        size = _read_size(metadata.get("image_size", ""))
        train_size = _read_size(metadata["train_image_size"]) if "train_image_size" in metadata else None
        if not 0 < crop_fraction <= 1:
            raise ValueError
        return Preprocessing(size, mean, std, crop_fraction, metadata.get("grey") == "true", train_size)
    except (TypeError, ValueError, OverflowError, UsageError) as error:
        why = f": {error.problem}" if isinstance(error, UsageError) else "."
        raise UsageError(f"The preprocessing stated in {source} is invalid{why}", "Train or export it again.") from None


def _read_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    size = int(height), int(width)
    if not all(SMALLEST_IMAGE <= side <= LARGEST_IMAGE for side in size):
        raise ValueError
    return size


def read_shape(metadata: dict[str, str], state: dict[str, Tensor]) -> tuple[int, int] | None:
    """Number of classes and of input channels that a file states, if its weights have such dimensions.

    The weights alone do not tell: safetensors sorts them, so the first one may belong to any layer.
    """
    rows = {str(value.shape[0]) for value in state.values() if value.dim() == 2 and value.numel()}
    channels = {str(value.shape[1]) for value in state.values() if value.dim() == 4 and value.numel()}
    classes, stated = metadata.get("num_classes", ""), metadata.get("in_channels", "")
    return (int(classes), int(stated)) if classes in {"0", *rows} and stated in channels else None


def read_arguments(metadata: dict[str, str], source: str) -> external.Arguments:
    """The keyword arguments that the network was built with.

    Raises:
        UsageError: They are damaged.
    """
    text = metadata.get("model_args")
    arguments = _parse(text, source, "model arguments") if text else {}
    if not isinstance(arguments, dict):
        raise _damaged("model arguments", source)
    return arguments


def read_class_names(metadata: dict[str, str], count: int, source: str) -> tuple[str, ...] | None:
    """Names of the classes in order, or None if the file states none.

    Raises:
        UsageError: They are damaged, or the network has another number of classes.
    """
    text = metadata.get("classes")
    if not text:
        return None
    names = _parse(text, source, "class names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _damaged("class names", source)
    if len(names) != count:
        raise UsageError(
            f"{source} has {len(names)} class names for a network with {count} classes.", "Train or export it again."
        )
    return tuple(names)


def read_data(metadata: dict[str, str], source: str) -> DataSpec | None:
    """The dataset that a file names, with its settings; None if it states no settings.

    Raises:
        UsageError: The settings are damaged.
    """
    name = metadata.get("dataset", "")
    is_code = ":" in name  # a user's own class, which may not be importable here
    if "data_settings" not in metadata or is_code:
        return None
    settings = _parse(metadata["data_settings"], source, "datasettings")
    try:
        if not isinstance(settings, dict) or not settings.keys() <= data_spec({"name": name}).shared.keys():
            raise ValueError
        return data_spec({"name": name, **settings})
    except ValueError:  # pydantic's ValidationError too
        raise _damaged("datasettings", source) from None


def _parse(text: str, source: str, what: str) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a finite number")

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise _damaged(what, source) from None
    return value


def _damaged(what: str, source: str) -> UsageError:
    return UsageError(f"The {what} in {source} are damaged.", "Train, export or fetch it again.")
