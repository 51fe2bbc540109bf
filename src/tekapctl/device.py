"""Where a run computes, and in which precision."""

import logging
import os
import re
import shutil
import socket
import sysconfig
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator, local_rank
from tekapctl.errors import UsageError

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest NVIDIA driver that each major version of CUDA runs with, on Linux."""
_DRIVER = Path("/proc/driver/nvidia/version")


def resolve_device(
    name: str,
    comm: Communicator = SINGLE_PROCESS,
) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    Args:
        name: What it is called.
        comm: The processes of the run; where there are several, each has the GPU of its number on its machine.

    Raises:
        UsageError: The machine has no such device, or it is one for several processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        problem = unusable_gpu() if name == "cpu" else None
        if problem is not None:
            logger.info(f"{problem} This run computes on the CPU.")
    device = torch.device(name)
    if comm.world_size > 1 and device.type != "cpu":
        if device.type != "cuda" or device.index is not None:
            raise UsageError(
                f"{name} is a single device, and {comm.world_size} processes need one each.", "Use --device cuda."
            )
        # A job system may show each process its own GPU only, which is then number 0 to all of them.
        device = torch.device("cuda", local_rank() if torch.cuda.device_count() > 1 else 0)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            unusable_gpu() or "This machine has no CUDA device that PyTorch can use.", "Use --device cpu, or auto."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"There is no device {device}; this machine has {torch.cuda.device_count()}.",
            "Use --device cuda:0, or auto."
            if comm.world_size == 1
            else "Each process needs one: start fewer, or on the CPU.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("This machine has no MPS device that PyTorch can use.", "Use --device cpu, or auto.")
    if device.type == "cuda":
        # Pinned memory, compiled kernels and graphs are those of the current device.
        torch.cuda.set_device(device)
    return device


def check_one_gpu_each(device: torch.device, comm: Communicator) -> None:
    """Refuse a GPU that two processes share: they would wait for each other for ever. All processes must ask at once.

    Raises:
        UsageError: Two processes have the same GPU.
    """
    if comm.world_size == 1 or device.type != "cuda":
        return
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) or f"process {comm.rank}"
    names = comm.all_gather_object((socket.gethostname(), uuid))
    if len(set(names)) < len(names):
        raise UsageError(
            f"{len(names)} processes have {len(set(names))} different GPUs, and each needs one of its own.",
            "Start as many processes as there are GPUs.",
        )


def unusable_gpu() -> str | None:
    """Why PyTorch cannot use the NVIDIA GPU that this machine seems to have; None if there is none, or it can."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    has_driver = _DRIVER.exists() or shutil.which("nvidia-smi") is not None
    if is_hidden or not has_driver or torch.version.hip is not None or torch.cuda.is_available():
        return None
    built = torch.version.cuda
    if built is None:
        return f"There is an NVIDIA driver, but PyTorch {torch.__version__} is a build without CUDA."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.cuda.init()
            reason = "it finds no GPU"
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
    needed = OLDEST_DRIVERS.get(int(built.split(".")[0]))
    installed = _driver_version()
    drivers = "" if needed is None else f" CUDA {built} needs NVIDIA driver {needed} or newer"
    if drivers:
        drivers += f"; {installed} is installed." if installed else "."
    return f"PyTorch {torch.__version__} is built for CUDA and cannot use the GPU here: {reason}.{drivers}"


def _driver_version() -> str | None:
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER.read_text())
    except OSError:
        return None
    return found.group() if found else None


def resolve_precision(name: str, device: torch.device, network: nn.Module, *, trains: bool) -> torch.dtype:
    """The precision of a network's passes: `auto` is bfloat16 where the hardware is fast at it with this network.

    Losses, memory banks and the optimiser stay in float32 whatever this says.

    Args:
        name: `auto`, `float32`, `tf32` or `bfloat16`.
        device: Where it computes.
        network: The network.
        trains: Whether it has backward passes too.
    """
    if name == "auto":
        return torch.bfloat16 if _fast_at_bfloat16(device, network, trains=trains) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def make_deterministic(device: torch.device) -> None:
    """Have cuDNN give equal numbers for equal specs, in this process from now on."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True


def set_float32_precision(name: str, device: torch.device) -> None:
    """Choose how CUDA multiplies float32 numbers, in this process from now on.

    `float32` is IEEE float32, `tf32` rounds what is multiplied to 10 bits. With `auto` and `bfloat16`, what stays in
    float32 is as PyTorch has it: TF32 in convolutions, IEEE float32 in matrix products.

    Args:
        name: `auto`, `float32`, `tf32` or `bfloat16`.
        device: Where it computes.

    Raises:
        UsageError: The device has no TF32.
    """
    if device.type != "cuda":
        if name == "tf32":
            raise UsageError("TF32 is a precision of NVIDIA GPUs.", "Use --precision float32, or --device cuda.")
        return
    if name == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(
            f"{torch.cuda.get_device_name(device)} has no TF32, which came with Ampere.", "Use --precision float32."
        )
    in_convolutions, in_products = name != "float32", name == "tf32"
    # The older switches come first: PyTorch refuses to read them, as its compiler does, where both disagree.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = in_convolutions
        torch.backends.cuda.matmul.allow_tf32 = in_products
    words = {True: "tf32", False: "ieee"}
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = words[in_convolutions]
    torch.backends.cuda.matmul.fp32_precision = words[in_products]


def describe_passes(device: torch.device, dtype: torch.dtype) -> str:
    """The precision of a network's passes as equal numbers depend on it: TF32 is not float32."""
    cudnn: Any = torch.backends.cudnn
    if device.type == "cuda" and dtype == torch.float32 and cudnn.conv.fp32_precision == "tf32":
        return "tf32"
    return str(dtype).removeprefix("torch.")


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


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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


def find_compiler(kind: str) -> str | None:
    """The compiler that `torch.compile` uses on a kind of device, `cpu` or `cuda`; None if there is none."""
    if kind == "cuda":  # Triton builds the functions that launch its kernels
        names = (os.environ.get("CC", "gcc"), "gcc", "clang")
    else:
        names = (os.environ.get("CXX", "g++"), "clang++", "cl")
    programs = (name.split()[:1] for name in names)
    return next((found for program in programs for found in map(shutil.which, program) if found is not None), None)


def missing_for_compile(kind: str) -> tuple[str, str] | None:
    """What `torch.compile` needs and does not find on a kind of device, and what to install; None if it has all."""
    where, language, package = ("CUDA", "C", "gcc") if kind == "cuda" else ("the CPU", "C++", "g++")
    if find_compiler(kind) is None:
        return f"Compiling networks for {where} needs a {language} compiler.", f"Install {package}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"Compiling networks for {where} needs Python's headers.", "Install the package python3-dev"
    return None


def compile_for(device: torch.device, function: F) -> F:
    """The function compiled: on CUDA with its kernels recorded as a graph, whose launches cost nothing.

    Raises:
        UsageError: There is no compiler, or Python's headers are missing.
    """
    missing = missing_for_compile(device.type) if device.type in ("cpu", "cuda") else None
    if missing is not None:
        problem, remedy = missing
        raise UsageError(problem, f"{remedy}, or leave out --compile.")
    return cast(F, torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None))
