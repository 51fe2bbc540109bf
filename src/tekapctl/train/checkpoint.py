"""Checkpoints: written atomically, and verified when they are read."""

import copy
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tekapctl.errors import TekapctlError, lacking_memory
from tekapctl.store.atomic import atomic_file, explain

KEPT = 2
"""Checkpoints that a run keeps: the newest, and one to fall back on."""

_SET_ASIDE = ".damaged"
_MAGIC = b"tekapctl training state, sha256 "
_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.state")


def save(folder: Path, epoch: int, step: int, state: dict[str, Any]) -> Path:
    """Write a checkpoint, of some epochs and steps of the next, and delete all but the newest ones."""
    path = place(folder, epoch, step)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    with atomic_file(path, make_folder=False) as file:
        file.write(_MAGIC + bytes(hashlib.sha256().digest_size * 2) + b"\n")
        hashed = _Hashed(file)
        torch.save(state, cast("IO[bytes]", hashed))
        hashed.check()
        file.seek(len(_MAGIC))
        file.write(hashed.sum.hexdigest().encode())
    for _, old in _numbered(folder)[KEPT:]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


class _Hashed:
    """Passes what PyTorch writes on to a file, and computes its checksum.

    An error of the file must not go through PyTorch, which would hide it behind one of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sum = hashlib.sha256()
        self._error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write and hash a piece, unless an earlier one could not be written."""
        if self._error is None:
            try:
                self.file.write(content)
                self.sum.update(content)
            except OSError as error:
                self._error = error
        return len(content)

    def flush(self) -> None:
        """PyTorch asks for it at the end; the file is flushed with its checksum."""

    def check(self) -> None:
        """Raise the error of a piece that could not be written."""
        if self._error is not None:
            raise self._error


def host_copy(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A copy of a state in the host's memory, which training does not change.

    From CUDA it goes to pinned memory, all tensors at once.
    """
    queued = device.type == "cuda"
    tensors = [value for value in tree_leaves(state) if isinstance(value, Tensor)]
    copies = {id(tensor): tensor.detach().to("cpu", copy=True, non_blocking=queued) for tensor in tensors}
    if queued:
        torch.cuda.synchronize(device)
    return copy.deepcopy(state, copies)


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


def exists(folder: Path) -> bool:
    """Whether a folder has a checkpoint, intact or not."""
    return bool(_numbered(folder))


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
