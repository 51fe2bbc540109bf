"""Training state on disk: whole or not at all, and checked when it is read."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from tekapctl.errors import TekapctlError
from tekapctl.store.files import write_whole

KEPT = 2
"""How many checkpoints a run keeps: the newest, and one to fall back on."""

_MAGIC = b"tekapctl training state, sha256 "
_NAME = re.compile(r"epoch-(\d+)\.state")


def save(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Write the training state after an epoch and drop all but the newest checkpoints."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"epoch-{epoch:06d}.state"
    write_whole(path, _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    for _, old in _numbered(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """The training state in a checkpoint.

    Raises:
        TekapctlError: The file is not what was written.
    """
    header, _, payload = path.read_bytes().partition(b"\n")
    if header != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise TekapctlError(f"The checkpoint {path} is damaged.", "The one before it can be used.")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return state


def newest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest training state that is whole, and the damaged ones that were passed over."""
    damaged: list[Path] = []
    for _, path in _numbered(folder):
        try:
            return read(path, device), damaged
        except TekapctlError:
            damaged.append(path)
    return None, damaged


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a folder, newest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.state") if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)
