"""Checkpoints: written atomically, and verified when they are read."""

import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tekapctl.errors import TekapctlError, lacking_memory
from tekapctl.store.atomic import atomic_write

KEPT = 2
"""Checkpoints that a run keeps: the newest, and one to fall back on."""

_SET_ASIDE = ".damaged"
_MAGIC = b"tekapctl training state, sha256 "
_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.state")


def save(folder: Path, epoch: int, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint and delete all but the newest ones.

    Args:
        folder: The run's checkpoints.
        epoch: Epochs done.
        step: Steps done of the next.
        state: The state.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = place(folder, epoch, step)
    atomic_write(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    for _, old in _numbered(folder)[KEPT:]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def place(folder: Path, epoch: int, step: int) -> Path:
    """The path of the checkpoint after `epoch` epochs and `step` steps of the next."""
    return folder / f"epoch-{epoch:06d}-step-{step:08d}.state"


class DamagedCheckpointError(TekapctlError):
    """A checkpoint's content does not match its checksum."""


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """The training state in a checkpoint.

    Raises:
        DamagedCheckpointError: Its content does not match its checksum.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    try:
        header, _, payload = content.partition(b"\n")
        if header != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
            raise ValueError("its checksum does not match")
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("it is not a training state")
    except Exception as error:
        if lacking_memory(error) is not None:
            raise  # nothing is wrong with the file
        raise DamagedCheckpointError(f"The checkpoint {path} is damaged: {error}.", "Use the one before it.") from None
    return state


def described(folder: Path) -> str:
    """The newest checkpoint, in words."""
    numbered = _numbered(folder)
    if not numbered:
        return "there is no checkpoint yet"
    (epoch, step), _ = numbered[0]
    return f"the last good checkpoint is after epoch {epoch}" + (f", step {step}" if step else "")


def newest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest intact training state, and the damaged checkpoints that were skipped."""
    damaged: list[Path] = []
    for _, path in _numbered(folder):
        try:
            return read(path, device), damaged
        except DamagedCheckpointError:
            damaged.append(path)
    return None, damaged


def set_aside(paths: Iterable[Path]) -> None:
    """Rename damaged checkpoints, so that they are not counted among those a run keeps."""
    for path in paths:
        path.replace(path.with_name(path.name + _SET_ASIDE))


def _numbered(folder: Path) -> list[tuple[tuple[int, int], Path]]:
    """All checkpoints of a folder, newest first."""
    names = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.state"))
    return sorted((((int(match[1]), int(match[2])), path) for match, path in names if match), reverse=True)
