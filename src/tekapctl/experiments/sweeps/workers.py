"""A sweep's processes on this machine: their registration, so that they can be stopped, and their devices."""

import logging
import os
import platform
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock

from tekapctl.distributed.communicator import processors
from tekapctl.errors import UsageError
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.store.atomic import make_folder
from tekapctl.store.locks import is_locked

logger = logging.getLogger(__name__)


@contextmanager
def present(folder: SweepFolder) -> Iterator[None]:
    """Register this process as running the sweep."""
    path = make_folder(folder.path / "processes") / f"{platform.node()}+{os.getpid()}"
    try:
        with FileLock(path):
            yield
    finally:
        path.unlink(missing_ok=True)


def stop_all(folder: SweepFolder) -> int:
    """Send SIGTERM to all processes on this machine that run the sweep; returns how many."""
    stopped = 0
    for path in sorted((folder.path / "processes").glob("*+*")):
        machine, _, process = path.name.rpartition("+")
        if not is_locked(path):
            path.unlink(missing_ok=True)  # it was killed
        elif machine != platform.node():
            logger.info(f"a process on {machine} runs this sweep too: cancel it there")
        else:
            os.kill(int(process), signal.SIGTERM)
            stopped += 1
    return stopped


_DEVICE = re.compile(r"cpu|cuda:(\d{1,3})")


def check(devices: Sequence[str], plan: Plan) -> None:
    """Check that devices can be assigned to workers.

    Raises:
        UsageError: A name is not a device, or a spec sets its own device.
    """
    for name in devices:
        if not _DEVICE.fullmatch(name):
            raise UsageError(f"{name!r} is not a device.", "Use cpu, or CUDA devices such as --devices cuda:0,cuda:1.")
    for trial in plan.trials.values() if devices else ():
        if trial.spec.device not in ("auto", "cuda") and [trial.spec.device] != list(devices):
            raise UsageError(
                f"{trial.label} sets its own device, {trial.spec.device}, which conflicts with --devices.",
                "Remove device from the file, or --devices from the command.",
            )


def environment(device: str | None, workers: int) -> dict[str, str]:
    """Environment variables of a worker.

    A worker sees only its own device, so that specs need not name it and runs can resume on another one.

    Args:
        device: Its device; None for all.
        workers: Number of workers that share the CPU.

    Raises:
        UsageError: CUDA_VISIBLE_DEVICES does not include the device.
    """
    found = {}
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        found["OMP_NUM_THREADS"] = str(max(1, processors() // workers))
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    elif device is not None:
        number = int(device.partition(":")[2])
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        if visible and number >= len(visible):
            raise UsageError(
                f"There is no device {device}: CUDA_VISIBLE_DEVICES lists {len(visible)}.", "Use fewer --devices."
            )
        found["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return found
