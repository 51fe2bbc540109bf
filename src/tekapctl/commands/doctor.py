"""Inspect this machine: versions, devices, datasets, free space, and what will be slow on it."""

import importlib.metadata
import os
import platform
import shutil
from typing import Any

import torch

from tekapctl import __version__
from tekapctl.commands.cache import list_artifacts
from tekapctl.data import DATASETS, data_spec
from tekapctl.device import cpu_multiplies_bfloat16, describe_kind, find_compiler, missing_for_compile, unusable_gpu
from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError
from tekapctl.store.atomic import format_bytes
from tekapctl.store.home import Home

_EXTRAS = {
    "timm": "timm",
    "export": "onnxruntime",
    "hf": "datasets",
    "svhn": "scipy",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow-skinny",
    "slurm": "submitit",
}
"""The main package of each extra."""
_LOW_SPACE = 5 * 2**30


def examine(home: Home) -> dict[str, Any]:
    """Inspect this machine.

    Returns:
        Plain values: `versions`, `devices`, `compiler`, `home`, `datasets` (whether each is available offline; not
        those that need a location), `extras` (installed versions) and `warnings` (sentences on what will be slow or
        will not work).
    """
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    cached: dict[str, int] = {}
    for artifact in list_artifacts(home):
        cached[artifact.kind] = cached.get(artifact.kind, 0) + artifact.bytes
    report = {
        "versions": {
            "tekapctl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"),
        },
        "devices": _devices(),
        "compiler": find_compiler("cpu"),
        "home": {
            "path": str(home.root),
            "writable": os.access(folder, os.W_OK),
            "free_bytes": shutil.disk_usage(folder).free,
            "cached": cached,
        },
        "datasets": {name: _is_available(name, home) for name in DATASETS if not DATASETS[name].needs_location},
        "extras": {extra: _version(package) for extra, package in _EXTRAS.items()},
    }
    return {**report, "warnings": _warnings(report)}


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [
        {
            "name": "cpu",
            "description": describe_kind(torch.device("cpu")),
            "cores": processors(),
            "threads": torch.get_num_threads(),
            "memory_bytes": _memory(),
            "precision": "bfloat16" if cpu_multiplies_bfloat16() else "float32",
        }
    ]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", number)
        is_fast = torch.cuda.get_device_capability(device) >= (8, 0)
        devices.append(
            {
                "name": f"cuda:{number}",
                "description": describe_kind(device),
                "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
                "precision": "bfloat16" if is_fast else "float32",
            }
        )
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        devices.append({"name": "mps", "description": "Apple GPU", "memory_bytes": memory, "precision": "float32"})
    return devices


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _is_available(name: str, home: Home) -> bool:
    try:
        data_spec(name).load(home.datasets, offline=True)
    except TekapctlError:
        return False
    return True


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _warnings(report: dict[str, Any]) -> list[str]:
    """What will be slow or will not work, and why."""
    (cpu, *others), home = report["devices"], report["home"]
    warnings = []
    if not others:
        warnings.append("No CUDA device: the published experiments take days on a CPU. Start with small ones.")
    if cpu["precision"] == "float32" and not others:
        warnings.append("The CPU has no bfloat16 instructions: networks run in float32, about half as fast.")
    if cpu["threads"] > cpu["cores"]:
        warnings.append(
            f"PyTorch uses {cpu['threads']} threads on {cpu['cores']} cores, which slows it down: "
            f"set OMP_NUM_THREADS={cpu['cores']}."
        )
    if (problem := unusable_gpu()) is not None:
        warnings.append(f"{problem} `device=auto` uses the CPU.")
    if any(device["name"] == "mps" for device in others):
        warnings.append("`device=auto` does not choose MPS; use `device=mps`.")
    has_cuda = any(device["name"].startswith("cuda") for device in others)
    if (missing := missing_for_compile("cuda" if has_cuda else "cpu")) is not None:
        warnings.append(f"{missing[0]} {missing[1]}: `compile` will not work until then.")
    if not home["writable"]:
        warnings.append(f"{home['path']} is not writable: set TEKAPCTL_HOME to another folder.")
    if home["free_bytes"] < _LOW_SPACE:
        warnings.append(
            f"Only {format_bytes(home['free_bytes'])} free in {home['path']}: a cache of teacher outputs needs more."
        )
    return warnings
