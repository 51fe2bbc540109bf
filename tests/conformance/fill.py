"""Weights that depend on nothing but a seed, their name and their shape."""

import math
import zlib

import torch
from torch import Tensor, nn


def fill_state_dict(module: nn.Module, seed: int) -> None:
    """Overwrite every parameter and buffer."""
    state = module.state_dict()
    module.load_state_dict({key: filled_value(key, value.shape, seed).to(value.dtype) for key, value in state.items()})


def filled_value(key: str, shape: torch.Size, seed: int) -> Tensor:
    """The value of a parameter or buffer."""
    source = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(key.encode())) % (2**63 - 1))
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=source)
    if key.endswith("running_mean"):
        return 0.1 * torch.randn(shape, generator=source)
    if len(shape) == 1:
        if key.endswith("weight"):
            return 0.25 + 0.5 * torch.rand(shape, generator=source)
        return 0.1 * torch.randn(shape, generator=source)
    return torch.randn(shape, generator=source) * math.sqrt(2.0 / math.prod(shape[1:]))
