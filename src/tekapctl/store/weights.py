"""Weights of networks as safetensors, with the metadata to build the network again."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tekapctl.errors import UsageError
from tekapctl.store.atomic import atomic_write

_SHOWN = 3
MAX_CLASSES = 1_000_000
MAX_CHANNELS = 1024
_METADATA = "tekapctl"


def encode_weights(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Encode a state dict with its metadata as the content of a file."""
    # safetensors refuses tensors that share memory.
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    # A single entry: safetensors writes several in random order, but equal weights should make equal files.
    packed = {_METADATA: json.dumps(metadata, sort_keys=True)}
    return save(plain, metadata=packed)


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a state dict with its metadata atomically."""
    # Encoded in memory: safetensors has its own errors for a full disk.
    atomic_write(path, encode_weights(state, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata only.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _unpack(file.metadata())
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the state dict and its metadata.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, _unpack(file.metadata())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from None


def load_into(network: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load a state dict, which must fit the network exactly; errors name its source.

    Raises:
        UsageError: Names or shapes differ (the message says which), or a value is not finite.
    """
    own = network.state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or extra or shapes:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
            for what, keys in (("are missing", missing), ("are unknown", extra), ("have another shape", shapes))
            if keys
        ]
        raise UsageError(
            f"The weights in {source} have another architecture: of the network's tensors {', '.join(parts)}.",
            "Name the network that they belong to.",
        )
    for key, value in state.items():
        if own[key].is_floating_point() != value.is_floating_point() or value.is_complex():
            kind = str(value.dtype).removeprefix("torch.")
            raise UsageError(f"The weights in {source} are damaged: {key} holds {kind}.", "Use other weights.")
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise UsageError(
                f"The weights in {source} are damaged: {key} has values that are not finite.", "Use other weights."
            )
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def classifier_shape(state: dict[str, Tensor], source: str) -> tuple[int, int]:
    """The numbers of classes and of input channels of a classifier, from the shapes of its weights.

    Raises:
        UsageError: They are not weights of an image classifier.
    """
    matrices = [value for value in state.values() if value.dim() == 2]
    kernels = [value for value in state.values() if value.dim() == 4]
    if not matrices or not kernels:
        raise UsageError(
            f"The weights in {source} are not those of an image classifier.",
            "Name a checkpoint of an image classifier.",
        )
    classes, channels = matrices[-1].shape[0], kernels[0].shape[1]
    # A tensor without elements can claim any shape.
    if not 0 < classes <= MAX_CLASSES or not 0 < channels <= MAX_CHANNELS:
        raise UsageError(
            f"The weights in {source} claim {classes:,} classes and {channels:,} channels.",
            "Name a checkpoint of a network.",
        )
    return classes, channels


class MemoryBudget(TorchDispatchMode):
    """Limits the memory of all new tensors together: the arguments in a file can ask for a network of any size."""

    def __init__(self, max_bytes: int, source: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = max_bytes
        self.source = source

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the bytes of calls that create tensors from nothing."""
        sizes = args[0] if args and isinstance(args[0], list | tuple) else ()
        if not any(isinstance(each, Tensor) for each in args):
            self.left -= 4 * math.prod(size for size in sizes if isinstance(size, int))
            if self.left < 0:
                raise UsageError(
                    f"The weights in {self.source} do not have the architecture that the file states: "
                    "that network is far larger than the file.",
                    "Name the network that they belong to.",
                )
        return func(*args, **(kwargs or {}))


def _unpack(metadata: dict[str, str] | None) -> dict[str, str]:
    found = json.loads((metadata or {}).get(_METADATA, "{}"))
    if not isinstance(found, dict):
        raise ValueError("its metadata is not a JSON object")
    return {str(key): str(value) for key, value in found.items()}


def _damaged(path: Path, error: Exception) -> UsageError:
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return UsageError(
        f"The weights in {path} cannot be read: {reason}.", "Fetch or train them again, or name another file."
    )
