"""Where a run computes, and in which precision."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from tekapctl.errors import UsageError
from tekapctl.parallel.team import ALONE, Team, local_rank

F = TypeVar("F", bound=Callable[..., object])


def resolve_device(name: str, team: Team = ALONE) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Args:
        name: What it is called.
        team: The processes of the run; where there are several, each has the GPU of its number on its machine.

    Raises:
        UsageError: The machine has no such device, or it is one for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if team.size > 1 and device.type != "cpu":
        if device.type != "cuda" or device.index is not None:
            raise UsageError(
                f"{name} is a single device, and {team.size} processes need one each.", "Use --device cuda."
            )
        device = torch.device("cuda", local_rank())
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("This machine has no CUDA device that PyTorch can use.", "Use --device cpu, or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"There is no device {device}; this machine has {torch.cuda.device_count()}.",
            "Use --device cuda:0, or auto."
            if team.size == 1
            else "Each process needs one: start fewer, or on the CPU.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("This machine has no MPS device that PyTorch can use.", "Use --device cpu, or auto.")
    if device.type == "cuda" and team.size > 1:
        torch.cuda.set_device(device)
    return device


def resolve_precision(name: str, device: torch.device, network: nn.Module, *, trains: bool) -> torch.dtype:
    """The precision of a network's passes: `auto` is bfloat16 where the hardware is fast at it with this network.

    Losses, memory banks and the optimiser stay in float32 whatever this says.

    Args:
        name: `auto`, `float32` or `bfloat16`.
        device: Where it computes.
        network: The network.
        trains: Whether it has backward passes too.
    """
    if name == "auto":
        return torch.bfloat16 if _fast_at_bfloat16(device, network, trains=trains) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _fast_at_bfloat16(device: torch.device, network: nn.Module, *, trains: bool) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # On CPUs the backward pass of grouped convolutions is slower in bfloat16: docs/speed.md has the figures.
    is_grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
    return device.type == "cpu" and cpu_multiplies_bfloat16() and not (trains and is_grouped)


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it (AMX, or AVX512-BF16); emulation is slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Run networks in `dtype`, and parameters, reductions and losses in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on the device, its convolutions' weights in channels-last order, which CPUs and GPUs are fast at."""
    return module.to(device).to(memory_format=torch.channels_last)


def describe_kind(device: torch.device) -> str:
    """What kind of hardware a device is: where two are alike in this, they round alike."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def describe(device: torch.device) -> str:
    """The device in words, for a run's environment."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def compile_for(device: torch.device, function: F) -> F:
    """The function compiled: on CUDA with its kernels recorded as a graph, whose launches cost nothing.

    Raises:
        UsageError: There is no compiler.
    """
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise UsageError("Compiling networks for the CPU needs a C++ compiler.", "Install g++, or leave out --compile.")
    return cast(F, torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None))
