"""Weights that depend on nothing but a seed, their name and their shape."""

import math
import zlib

import torch
from torch import nn


def fill_state_dict(module: nn.Module, seed: int) -> None:
    """Overwrite every parameter and buffer."""
    state = module.state_dict()
    for key, value in state.items():
        source = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(key.encode())) % (2**63 - 1))
        if key.endswith("num_batches_tracked"):
            new = torch.zeros_like(value)
        elif key.endswith("running_var"):
            new = 0.5 + torch.rand(value.shape, generator=source)
        elif key.endswith("running_mean"):
            new = 0.1 * torch.randn(value.shape, generator=source)
        elif value.dim() == 1 and key.endswith("weight"):
            new = 0.25 + 0.5 * torch.rand(value.shape, generator=source)
        elif value.dim() == 1:
            new = 0.1 * torch.randn(value.shape, generator=source)
        else:
            new = torch.randn(value.shape, generator=source) * math.sqrt(2.0 / math.prod(value.shape[1:]))
        state[key] = new.to(value.dtype)
    module.load_state_dict(state)
