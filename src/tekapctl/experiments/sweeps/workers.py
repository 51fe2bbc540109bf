"""Which processes carry out a sweep, so that another one can tell them to stop."""

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
    """Be known as a process that carries out the sweep."""
    path = make_folder(folder.path / "processes") / f"{platform.node()}+{os.getpid()}"
    try:
        with FileLock(path):
            yield
    finally:
        path.unlink(missing_ok=True)


def stop_all(
    folder: SweepFolder,
) -> int:
    """Tell all processes of this machine that carry out the sweep to stop; returns how many.

    Args:
        folder: The sweep's folder.
    """
    told = 0
    for path in sorted((folder.path / "processes").glob("*+*")):
        machine, _, process = path.name.rpartition("+")
        if not is_locked(path):
            path.unlink(missing_ok=True)  # it was killed
        elif machine != platform.node():
            logger.info(f"a process on {machine} carries it out too: cancel it there")
        else:
            os.kill(int(process), signal.SIGTERM)
            told += 1
    return told


_DEVICE = re.compile(r"cpu|cuda:(\d{1,3})")


def check(devices: Sequence[str], plan: Plan) -> None:
    """See to it that devices can be dealt out.

    Raises:
        UsageError: One is none, or a spec names its own.
    """
    for name in devices:
        if not _DEVICE.fullmatch(name):
            raise UsageError(f"{name!r} is no device to deal out.", "Name them as --devices cuda:0,cuda:1, or cpu.")
    for trial in plan.trials.values() if devices else ():
        if trial.spec.device not in ("auto", "cuda") and [trial.spec.device] != list(devices):
            raise UsageError(
                f"{trial.label} names its own device, {trial.spec.device}, and --devices deals out others.",
                "Leave device out of the file, or --devices out of the command.",
            )


def environment(device: str | None, workers: int) -> dict[str, str]:
    """Variables for a worker.

    A device is all that its worker can see, so that the spec need not name it, and a run can go on with another one.

    Args:
        device: Its device; None leaves it all.
        workers: How many share the processor.
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
                f"There is no device {device}: CUDA_VISIBLE_DEVICES names {len(visible)}.", "Name fewer --devices."
            )
        found["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return found
