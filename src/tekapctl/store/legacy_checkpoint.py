"""Checkpoints of published code: pickles, read without running any code in them."""

import argparse
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tekapctl.errors import UsageError

MAX_BYTES = 2 * 2**30
_REBUILDING = re.compile(rb"_rebuild_\w+")
_PLAIN = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
_MAX_SHARED = 4
"""A file's tensors may claim at most this many times its size; tied weights share memory."""
_HARMLESS = [argparse.Namespace, np.dtype, np.float64, np.float32, np.dtypes.Float64DType, np.dtypes.Float32DType]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """The content of a published checkpoint."""

    state: dict[str, Tensor]  # without the prefix `module.` of data parallel training
    epoch: int | None = None  # after which it was written, if stated
    accuracy: float | None = None  # top-1 in percent, if stated


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a `.pth` of RepDistiller, TeKAP or mdistiller, or a plain state dict, in any of PyTorch's formats.

    Raises:
        UsageError: The file is damaged or not a checkpoint, or its pickle holds more than data.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UsageError(f"The checkpoint {path} is larger than 2 GiB.", "Name a checkpoint of a network of the zoo.")
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"The checkpoint {path} holds no state dict.", "Name a checkpoint of a network.")
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), content)
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UsageError(f"The checkpoint {path} holds no state dict.", "Name a checkpoint of a network.")
    _check_tensors(path, state)
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    epoch, accuracy = content.get("epoch"), content.get("accuracy", content.get("best_acc"))
    return PublishedCheckpoint(
        state=plain, epoch=epoch if isinstance(epoch, int) else None, accuracy=_percentage(accuracy)
    )


def _check_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Refuse tensors that are not dense arrays, or that claim more elements than the file holds."""
    claimed = 0
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested or value.is_quantized:
            raise UsageError(f"{key} in the checkpoint {path} is not a dense tensor.", "Save plain weights.")
        needed = value.numel() * value.itemsize
        claimed += needed
        # A view with strides of 0 can claim any shape over a few bytes.
        if needed > value.untyped_storage().nbytes() or claimed > _MAX_SHARED * path.stat().st_size:
            raise UsageError(
                f"{key} in the checkpoint {path} claims more elements than the file holds.",
                "Use a file written by PyTorch.",
            )


def _percentage(value: object) -> float | None:
    """A stated accuracy if it is a number from 0 to 100."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() and value.device.type == "cpu" else None
    if not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)


def _pickles(path: Path) -> list[bytes]:
    """The pickles in a checkpoint; files in PyTorch's zip format that unpack to more than their size are refused."""
    errors = (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError)
    try:
        archive = zipfile.ZipFile(path)
    except errors:
        content = path.read_bytes()
        if content.startswith(b"PK"):
            raise UsageError(f"The checkpoint {path} is damaged or not a checkpoint.", "Name another file.") from None
        return [content]  # an older format, or damaged: torch.load will tell
    with archive:
        records = archive.infolist()
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise UsageError(f"{path} is a TorchScript file.", "Save the network's state dict with torch.save instead.")
        is_packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if is_packed or sum(record.file_size for record in records) > path.stat().st_size:
            raise UsageError(f"The checkpoint {path} unpacks to more than its size.", "Use a file written by PyTorch.")
        try:
            return [archive.read(record) for record in records if record.filename.endswith(".pkl")]
        except errors:
            return [path.read_bytes()]  # nothing in it is packed


def _check_calls(path: Path) -> None:
    """Refuse pickles with calls that PyTorch's restricted unpickler allows but that can allocate any amount of memory.

    These are `bytearray`, and all functions that rebuild tensors other than plain tensors and parameters.
    """
    for content in _pickles(path):
        # Search for the names only: in older formats it is not known where the pickle ends.
        rebuilding = {name.decode() for name in _REBUILDING.findall(content)} - _PLAIN
        wanted = "bytearray" if b"bytearray" in content else min(rebuilding, default=None)
        if wanted is not None:
            raise UsageError(f"The checkpoint {path} would run {wanted} and was not loaded.", "Use a safetensors file.")


def _scalar(kind: np.dtype[Any], content: bytes = b"") -> object:
    """A NumPy scalar, as published scripts save accuracies; other sizes would only take memory."""
    if kind.itemsize != len(content) or kind.itemsize > 16:
        raise pickle.UnpicklingError("the size of a scalar does not match its dtype")
    return np.frombuffer(content, kind)[0]


def _unpickle(path: Path) -> Any:
    _check_calls(path)
    scalars: list[Any] = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_HARMLESS, *scalars]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
        what = f"would run {wanted[1]} and was not loaded" if wanted else "is damaged or not a checkpoint"
        remedy = "Use a file from a source that you trust, or a safetensors file."
        raise UsageError(f"The checkpoint {path} {what}.", remedy) from None
    except Exception:  # hostile bytes can raise anything
        raise UsageError(
            f"The checkpoint {path} is damaged or not a checkpoint.", "Fetch it again, or name another file."
        ) from None
