"""Checkpoints of the published codes: pickles, read without running anything in them."""

import argparse
import pickle
import re
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tekapctl.errors import UsageError

MOST_BYTES = 2 * 2**30
_REBUILDING = re.compile(rb"_rebuild_\w+")
_PLAIN = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}
_MOST_SHARED = 4
"""How many times its size a file's tensors may claim together: tied weights share memory."""
_HARMLESS = [argparse.Namespace, np.dtype, np.float64, np.float32, np.dtypes.Float64DType, np.dtypes.Float32DType]


@dataclass(frozen=True)
class PublishedCheckpoint:
    """What a checkpoint of the published codes says.

    Attributes:
        state: The network's state dict, without the prefix of data parallel training.
        epoch: The epoch after which it was written, if it says.
        accuracy: Top-1 in percent, if it says.
    """

    state: dict[str, Tensor]
    epoch: int | None = None
    accuracy: float | None = None


def read_published(path: Path) -> PublishedCheckpoint:
    """Read a `.pth` of RepDistiller, TeKAP or mdistiller, or a plain state dict, in any of PyTorch's formats.

    Raises:
        UsageError: The file is damaged, is no checkpoint, or its pickle holds more than data.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"The checkpoint {path} is larger than 2 GiB.", "Name a checkpoint of a network of the zoo.")
    _check_records(path)
    content = _unpickle(path)
    if not isinstance(content, dict):
        raise UsageError(f"The checkpoint {path} holds no state dict.", "Name a checkpoint of a network.")
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    else:
        state = content
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UsageError(f"The checkpoint {path} holds no state dict.", "Name a checkpoint of a network.")
    _check_tensors(path, state)
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    epoch, accuracy = content.get("epoch"), content.get("accuracy", content.get("best_acc"))
    return PublishedCheckpoint(
        state=plain, epoch=epoch if isinstance(epoch, int) else None, accuracy=_percentage(accuracy)
    )


def _check_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Refuse tensors that are no plain arrays, or that claim more numbers than the file holds.

    Raises:
        UsageError: There is one.
    """
    claimed = 0
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested or value.is_quantized:
            raise UsageError(f"{key} in the checkpoint {path} is not a dense tensor.", "Save plain weights.")
        needed = value.numel() * value.itemsize
        claimed += needed
        # A view with strides of 0 claims any shape over a few bytes.
        if needed > value.untyped_storage().nbytes() or claimed > _MOST_SHARED * path.stat().st_size:
            raise UsageError(
                f"{key} in the checkpoint {path} claims more numbers than the file holds.",
                "Use a file that PyTorch has written.",
            )


def _percentage(value: object) -> float | None:
    """A stated accuracy, if it is a number that can be one."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 and not value.is_complex() and value.device.type == "cpu" else None
    if not isinstance(value, int | float) or not 0 <= value <= 100:
        return None
    return float(value)


def _check_records(path: Path) -> None:
    """See to it that a file of PyTorch's zip format does not unpack to more than it has."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            packed = [record for record in records if record.compress_type != zipfile.ZIP_STORED]
            total = sum(record.file_size for record in records)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
            raise UsageError(f"The checkpoint {path} is damaged or no checkpoint.", "Name another file.") from None
        return  # an older format, or damaged: its reader will say so
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise UsageError(f"{path} is a TorchScript file.", "Save the network's state dict with torch.save instead.")
    if packed or total > path.stat().st_size:
        raise UsageError(f"The checkpoint {path} unpacks to more than it has.", "Use a file that PyTorch has written.")


def _check_calls(path: Path) -> None:
    """Refuse pickles with calls that PyTorch's restricted reader allows but that can allocate any amount of memory.

    These are `bytearray`, and all functions that rebuild tensors other than plain tensors and parameters.

    Raises:
        UsageError: The file's pickle does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(record) for record in archive.infolist() if record.filename.endswith(".pkl")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        pickles = [path.read_bytes()]
    for content in pickles:
        # The name alone: where a pickle of an older format ends is for its reader to find out.
        rebuilding = {name.decode() for name in _REBUILDING.findall(content)} - _PLAIN
        wanted = "bytearray" if b"bytearray" in content else min(rebuilding, default=None)
        if wanted is not None:
            raise UsageError(
                f"The checkpoint {path} wants to run {wanted}, and was not loaded.", "Use its safetensors."
            )


def _scalar(kind: np.dtype[Any], content: bytes = b"") -> object:
    """A number of numpy's, as the published scripts save accuracies; another size would only take memory."""
    if kind.itemsize != len(content) or kind.itemsize > 16:
        raise pickle.UnpicklingError("a number has the size of its type")
    return np.frombuffer(content, kind)[0]


def _unpickle(path: Path) -> Any:
    _check_calls(path)
    scalars: list[Any] = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_HARMLESS, *scalars]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = _refused_global(str(error))
        if wanted:
            problem = f"The checkpoint {path} wants to run {wanted}, and was not loaded."
        else:
            problem = f"The checkpoint {path} is damaged or no checkpoint."
        raise UsageError(problem, "Use a file from a source that you trust, or its safetensors.") from None
    except Exception:  # whatever the reader of hostile bytes trips over, the file is to blame
        raise UsageError(
            f"The checkpoint {path} is damaged or no checkpoint.", "Fetch it anew, or name another file."
        ) from None


def _refused_global(message: str) -> str | None:
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", message)
    return found[1] if found else None


MOST_UNPACKED = 2 * 2**30
MOST_FILES = 1_000_000
_TWO_OF_ONE_NAME = (FileExistsError, IsADirectoryError, NotADirectoryError)


def unpack_zip(archive: Path, target: Path, *, inside: str) -> None:
    """Unpack one folder of an archive into a new one.

    Args:
        archive: The file.
        target: The folder in which the archive's is made.
        inside: The folder in the archive.

    Raises:
        UsageError: It is damaged, has no such folder, wants to write elsewhere, or is far larger than it should be.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename.startswith(f"{inside}/")]
            _check(archive, entries, inside)
            opened.extractall(target, entries)
    # Encrypted files are a RuntimeError, unknown ways of packing a NotImplementedError, which is one too.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, *_TWO_OF_ONE_NAME) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it anew, or use another.") from None


def _check(archive: Path, entries: list[zipfile.ZipInfo], inside: str) -> None:
    if not entries:
        raise UsageError(f"The archive {archive} has no folder {inside}.", "Use another.")
    if any(".." in PurePosixPath(entry.filename).parts for entry in entries):
        raise UsageError(f"The archive {archive} wants to write elsewhere.", "Get it from somewhere else.")
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED or len(entries) > MOST_FILES:
        raise UsageError(f"The archive {archive} is far larger than it should be.", "Use another.")
