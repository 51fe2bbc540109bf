"""What this machine has, and what will be slow on it: what `tekapctl doctor` does."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
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
"""Optional packages, by the extra of ours that brings them."""
_LITTLE_ROOM = 5 * 2**30


def examine(home: Home) -> dict[str, Any]:
    """Versions, devices, precision, data and space, and sentences on what will be slow and why.

    Args:
        home: Where everything is kept.
    """
    devices = _devices()
    there = _existing(home.root)
    free = shutil.disk_usage(there).free
    cached: dict[str, int] = {}
    for artifact in list_artifacts(home):
        cached[artifact.kind] = cached.get(artifact.kind, 0) + artifact.bytes
    found = {
        "versions": {
            "tekapctl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": importlib.metadata.version("torchvision"),
        },
        "devices": devices,
        "compiler": find_compiler("cpu"),
        "home": {"path": str(home.root), "writable": os.access(there, os.W_OK), "free_bytes": free, "cached": cached},
        "data_sets": {name: _is_ready(name, home) for name in DATASETS if not DATASETS[name].needs_location},
        "extras": {extra: _version(package) for extra, package in _EXTRAS.items()},
    }
    return {**found, "remarks": _remarks(found)}


def _devices() -> list[dict[str, Any]]:
    cores = processors()
    cpu = {
        "name": "cpu",
        "is": describe_kind(torch.device("cpu")),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory(),
        "precision": "bfloat16" if cpu_multiplies_bfloat16() else "float32",
    }
    found = [cpu]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", number)
        is_fast = torch.cuda.get_device_capability(device) >= (8, 0)
        memory = torch.cuda.get_device_properties(device).total_memory
        found.append(
            {
                "name": f"cuda:{number}",
                "is": describe_kind(device),
                "memory_bytes": memory,
                "precision": "bfloat16" if is_fast else "float32",
            }
        )
    if torch.backends.mps.is_available():
        found.append(
            {
                "name": "mps",
                "is": "Apple GPU",
                "memory_bytes": torch.mps.recommended_max_memory(),
                "precision": "float32",
            }
        )
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _is_ready(name: str, home: Home) -> bool:
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


def _remarks(found: dict[str, Any]) -> list[str]:
    """What will be slow, or will not work, and why."""
    cpu, *others = found["devices"]
    remarks = []
    if not others:
        remarks.append("There is no CUDA device: the published experiments take days on a CPU; begin with small ones.")
    if cpu["precision"] == "float32" and not others:
        remarks.append("The processor has no instructions for bfloat16: networks run in float32, about half as fast.")
    if cpu["threads"] > cpu["cores"]:
        remarks.append(
            f"PyTorch has {cpu['threads']} threads for {cpu['cores']} cores, which wait for each other: "
            f"set OMP_NUM_THREADS={cpu['cores']}."
        )
    problem = unusable_gpu()
    if problem is not None:
        remarks.append(f"{problem} --device auto is the CPU.")
    if any(device["name"] == "mps" for device in others):
        remarks.append("--device auto is never MPS: ask for it with --device mps.")
    has_cuda = any(device["name"].startswith("cuda") for device in others)
    missing = missing_for_compile("cuda" if has_cuda else "cpu")
    if missing is not None:
        remarks.append(f"{missing[0]} {missing[1]}: --compile will not work until then.")
    home = found["home"]
    if not home["writable"]:
        remarks.append(f"{home['path']} cannot be written: name another folder by TEKAPCTL_HOME.")
    if home["free_bytes"] < _LITTLE_ROOM:
        remarks.append(
            f"Only {format_bytes(home['free_bytes'])} are free in {home['path']}; cached teacher outputs take more."
        )
    return remarks
