"""The device and the precision of a run."""

import logging
import os
import re
import shutil
import socket
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn

from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator, local_rank
from tekapctl.errors import UsageError, counted, first_line

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest NVIDIA driver that each major version of CUDA runs with, on Linux."""
_DRIVER = Path("/proc/driver/nvidia/version")


def resolve_device(name: str, comm: Communicator = SINGLE_PROCESS) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here; several processes get the GPU of their local rank.

    Raises:
        UsageError: The machine has no such device, or several processes would share it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        problem = unusable_gpu() if name == "cpu" else None
        if problem is not None:
            logger.info(f"{problem} Using the CPU.")
    device = torch.device(name)
    if comm.world_size > 1 and device.type != "cpu":
        if device.type != "cuda" or device.index is not None:
            raise UsageError(
                f"{name} is a single device, and {comm.world_size} processes need one each.", "Use the device cuda."
            )
        # A job scheduler may show each process only its own GPU, which then has number 0.
        device = torch.device("cuda", local_rank() if torch.cuda.device_count() > 1 else 0)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            unusable_gpu() or "This machine has no CUDA device that PyTorch can use.", "Use the device cpu or auto."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"There is no device {device}; this machine has {torch.cuda.device_count()}.",
            "Use the device cuda:0 or auto."
            if comm.world_size == 1
            else "Each process needs its own GPU: start fewer processes, or use the CPU.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("This machine has no MPS device that PyTorch can use.", "Use the device cpu or auto.")
    if device.type == "cuda":
        # Pinned memory, compiled kernels and graphs belong to the current device.
        torch.cuda.set_device(device)
    return device


def check_one_gpu_each(device: torch.device, comm: Communicator) -> None:
    """Refuse GPUs that two processes share, which would deadlock; all processes must call this.

    Raises:
        UsageError: Two processes have the same GPU.
    """
    if comm.world_size == 1 or device.type != "cuda":
        return
    uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", "")) or f"process {comm.rank}"
    names = comm.all_gather_object((socket.gethostname(), uuid))
    if len(set(names)) < len(names):
        raise UsageError(
            f"{len(names)} processes have {len(set(names))} different GPUs, but each process needs its own.",
            "Start as many processes as there are GPUs.",
        )


def unusable_gpu() -> str | None:
    """Why PyTorch cannot use this machine's NVIDIA GPU; None if it can, or if there seems to be none."""
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
            reason = first_line(error)
    drivers = ""
    if (needed := OLDEST_DRIVERS.get(int(built.split(".")[0]))) is not None:
        try:
            found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER.read_text())
        except OSError:
            found = None
        installed = f"; {found.group()} is installed" if found else ""
        drivers = f" CUDA {built} needs NVIDIA driver {needed} or newer{installed}."
    return f"PyTorch {torch.__version__} is built for CUDA and cannot use the GPU here: {reason}.{drivers}"


def resolve_precision(name: str, device: torch.device, network: nn.Module, *, trains: bool) -> torch.dtype:
    """The precision of a network's passes; losses, memory banks and the optimizer always use float32.

    `auto` is bfloat16 where this is fast for the network and the hardware, with backward passes too if it `trains`.
    """
    is_bfloat16 = name == "bfloat16" or (name == "auto" and _fast_at_bfloat16(device, network, trains=trains))
    return torch.bfloat16 if is_bfloat16 else torch.float32


@contextmanager
def exact_float32(device: torch.device, then: str) -> Iterator[None]:
    """Compute in IEEE float32, as results are measured.

    Args:
        device: The device.
        then: The precision's name of what follows, as for `set_float32_precision`.
    """
    set_float32_precision("float32", device)
    try:
        yield
    finally:
        set_float32_precision(then, device)


def make_deterministic(device: torch.device) -> None:
    """Make cuDNN deterministic in this process."""
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True


def set_float32_precision(name: str, device: torch.device) -> None:
    """Set how CUDA multiplies float32 numbers in this process.

    `float32` is IEEE float32; `tf32` rounds the factors to 10 bits. With `auto` and `bfloat16`, operations in float32
    use PyTorch's defaults: TF32 in convolutions, IEEE float32 in matrix products.

    Raises:
        UsageError: The device has no TF32.
    """
    if device.type != "cuda":
        if name == "tf32":
            raise UsageError("TF32 is only available on NVIDIA GPUs.", "Use `precision=float32` or `device=cuda`.")
        return
    if name == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(
            f"{torch.cuda.get_device_name(device)} has no TF32, which requires Ampere or newer.",
            "Use `precision=float32`.",
        )
    in_convolutions, in_products = name != "float32", name == "tf32"
    # The older switches come first: PyTorch and its compiler refuse to read them if both disagree.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = in_convolutions
        torch.backends.cuda.matmul.allow_tf32 = in_products
    words = {True: "tf32", False: "ieee"}
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = words[in_convolutions]
    torch.backends.cuda.matmul.fp32_precision = words[in_products]


def describe_passes(device: torch.device, dtype: torch.dtype) -> str:
    """The precision of a network's passes, where TF32 counts as different from float32."""
    cudnn: Any = torch.backends.cudnn
    if device.type == "cuda" and dtype == torch.float32 and cudnn.conv.fp32_precision == "tf32":
        return "tf32"
    return str(dtype).removeprefix("torch.")


def _fast_at_bfloat16(device: torch.device, network: nn.Module, *, trains: bool) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # On CPUs the backward pass of grouped convolutions is slower in bfloat16; see docs/speed.md.
    is_grouped = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in network.modules())
    return device.type == "cpu" and cpu_multiplies_bfloat16() and not (trains and is_grouped)


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions (AMX or AVX512-BF16); emulation is slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Run networks in `dtype`, but keep parameters, reductions and losses in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a module to the device, with convolution weights in channels-last order, which is faster."""
    return module.to(device).to(memory_format=torch.channels_last)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe_kind(device: torch.device) -> str:
    """The kind of hardware; devices of one kind round equally."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def describe(device: torch.device) -> str:
    """Describe the device, for a run's environment."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {counted(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}"


def find_compiler(kind: str) -> str | None:
    """The compiler that `torch.compile` uses on a kind of device, `cpu` or `cuda`; None if there is none."""
    # On CUDA, Triton builds the functions that launch its kernels.
    names = ("CC", "gcc", "gcc", "clang") if kind == "cuda" else ("CXX", "g++", "clang++", "cl")
    programs = (os.environ.get(names[0], names[1]), *names[2:])
    return next((found for name in programs if name.strip() and (found := shutil.which(name.split()[0]))), None)


def missing_for_compile(kind: str) -> tuple[str, str] | None:
    """What `torch.compile` lacks on a kind of device, and what to install; None if nothing."""
    where, language, package = ("CUDA", "C", "gcc") if kind == "cuda" else ("the CPU", "C++", "g++")
    if find_compiler(kind) is None:
        return f"Compiling networks for {where} needs a {language} compiler.", f"Install {package}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return f"Compiling networks for {where} needs Python's headers.", "Install the package python3-dev"
    return None


def compile_for(device: torch.device, function: F) -> F:
    """Compile a function; on CUDA its kernels are recorded as a graph, which avoids launch overhead.

    Raises:
        UsageError: There is no compiler, or Python's headers are missing.
    """
    if device.type in ("cpu", "cuda") and (missing := missing_for_compile(device.type)) is not None:
        raise UsageError(missing[0], f"{missing[1]}, or do not compile.")
    return cast(F, torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None))
