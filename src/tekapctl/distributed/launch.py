"""Start the program as several processes, as torchrun does."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError


def launch(arguments: Sequence[str], processes: int) -> int:
    """Run a command line, without the program's name, as several processes on this machine; returns the exit code.

    Raises:
        TekapctlError: A process was killed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors() // processes)))
    logging.disable(logging.CRITICAL)  # the launcher's messages are replaced by ours
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "tekapctl", *arguments)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        return _explain(error.failures, processes)
    return 0


def _explain(failures: dict[int, ProcessFailure], processes: int) -> int:
    """The exit code of the first process that failed, or an error if one was killed."""
    first = min(failures.values(), key=lambda failure: failure.timestamp)
    killed = [failure for failure in failures.values() if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM]
    if killed:
        rank = next(rank for rank, failure in failures.items() if failure is killed[0])
        name = signal.Signals(-killed[0].exitcode).name
        raise TekapctlError(
            f"Process {rank} of {processes} was killed by {name}; the others have stopped.",
            f"`tekapctl resume latest --nproc {processes}` continues from the last checkpoint.",
        )
    return first.exitcode if first.exitcode > 0 else 1
