"""Checkpoints of the published codes: pickles, read without running anything in them."""

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

MOST_BYTES = 2 * 2**30
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
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    epoch, accuracy = content.get("epoch"), content.get("accuracy", content.get("best_acc"))
    return PublishedCheckpoint(
        state=plain,
        epoch=epoch if isinstance(epoch, int) else None,
        accuracy=None if accuracy is None or isinstance(accuracy, dict) else float(accuracy),
    )


def _check_records(path: Path) -> None:
    """See to it that a file of PyTorch's zip format does not unpack to more than it has."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [record for record in archive.infolist() if record.compress_type != zipfile.ZIP_STORED]
            total = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # an older format, or damaged: its reader will say so
    if packed or total > path.stat().st_size:
        raise UsageError(f"The checkpoint {path} unpacks to more than it has.", "Use a file that PyTorch has written.")


def _unpickle(path: Path) -> Any:
    scalar: Any = (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")  # type: ignore[attr-defined]
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([*_HARMLESS, scalar, np._core.multiarray.scalar]),  # type: ignore[attr-defined]
        ):
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
