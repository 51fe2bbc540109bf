"""Carries out a sweep on this machine: a process a trial, so many at a time."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from tekapctl.errors import TekapctlError
from tekapctl.experiments.sweeps.folder import NotYetError, SweepFolder
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Ledger, Standing
from tekapctl.experiments.sweeps.trial import Warming, warmings
from tekapctl.experiments.sweeps.workers import check, environment, present

logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between two looks at the workers."""


class Show(Protocol):
    """Is told how a sweep goes on."""

    def __call__(self, standings: Mapping[str, Standing]) -> None:
        """How all trials stand now."""
        ...


class SweepStoppedError(TekapctlError):
    """A signal ended the sweep; all of its runs are kept.

    Args:
        number: The signal.
        again: The command that goes on with it.
    """

    def __init__(self, number: int, again: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name}; all runs are kept.", f"Go on with `{again}`.")
        self.exit_code = 128 + number


@dataclass
class _Worker:
    """A process that works for the sweep.

    Attributes:
        task: A trial's digest, or the name of a store that is filled.
        process: The process.
        slot: The place that it takes.
    """

    task: str
    process: "subprocess.Popen[bytes]"
    slot: int


class LocalSweep:
    """A sweep carried out by processes of this machine.

    Args:
        plan: The sweep.
        folder: Its folder.
        workers: How many processes at a time.
        on: Devices that are dealt out to them in turn; none leaves each its spec's.
        retry: Try failed trials again.
        again: The command that goes on with it, for the user.
        show: Is told how it goes on.
    """

    def __init__(
        self,
        plan: Plan,
        folder: SweepFolder,
        *,
        workers: int,
        on: Sequence[str],
        retry: bool,
        again: str,
        show: Show,
    ) -> None:
        check(on, plan)
        self.plan, self.folder, self.again = plan, folder, again
        self.retry, self.show = retry, show
        self._variables = [environment(on[slot % len(on)] if on else None, workers) for slot in range(workers)]
        self._ledger = Ledger(folder.home)
        self._workers: list[_Worker] = []
        self._tried: set[str] = set()
        self._stores: dict[str, Warming] = {}
        self._store_of: dict[str, str] = {}
        self._signal: int | None = None

    def run(self) -> dict[str, Standing]:
        """Carry out what is not done yet; returns how all trials stand in the end.

        Raises:
            SweepStoppedError: A signal asked for that; workers have kept all.
        """
        self.folder.write_trials(self.plan)
        standings = self._ledger.look(self.plan)
        wanted = {
            digest: self.plan.trials[digest]
            for digest, standing in standings.items()
            if standing.state != "finished" and (standing.state != "failed" or self.retry)
        }
        self._stores, self._store_of = warmings(self.plan, wanted)
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with present(self.folder):
                while True:
                    self._reap()
                    standings = self._ledger.look(self.plan)
                    self.show(standings)
                    if self._signal is None:
                        self._fill(standings)
                        elsewhere = any(standing.state == "running" for standing in standings.values())
                    else:
                        elsewhere = False
                    if not self._workers and not elsewhere:
                        break
                    time.sleep(_PAUSE)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signal is not None:
            raise SweepStoppedError(self._signal, self.again)
        return standings

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt  # the workers stop at once when this process is gone
        self._signal = number
        logger.info("stopping: each run ends its step and is kept; once more stops at once")
        for worker in self._workers:
            worker.process.terminate()

    def _fill(self, standings: Mapping[str, Standing]) -> None:
        """Start workers while there is a place and something to do."""
        for task in self._ready(standings):
            taken = {worker.slot for worker in self._workers}
            free = [slot for slot in range(len(self._variables)) if slot not in taken]
            if not free:
                return
            self._tried.add(task)
            self._workers.append(_Worker(task, self._start(task, free[0]), free[0]))
            if self._signal is not None:  # it came while the process was started
                self._workers[-1].process.terminate()
                return

    def _ready(self, standings: Mapping[str, Standing]) -> list[str]:
        """What can be done now, in the plan's order."""
        found: dict[str, None] = {}
        for digest, trial in self.plan.trials.items():
            standing = standings[digest]
            if digest in self._tried or standing.state in ("finished", "running"):
                continue
            if standing.state == "failed" and not self.retry:
                continue
            if any(standings[need.digest].state != "finished" for need in trial.requires.values()):
                continue
            store = self._store_of.get(digest)
            if store is None or (store in self._tried and all(worker.task != store for worker in self._workers)):
                found[digest] = None
            elif store not in self._tried:
                found[store] = None
        return list(found)

    def _start(self, task: str, slot: int) -> "subprocess.Popen[bytes]":
        store = self._stores.get(task)
        if store is None:
            words = ["trial", *(["--retry"] if self.retry else [])]
            digest = task
        else:
            words = ["warm", "--epochs", str(store.epochs), *(["--always"] if self.plan.settings.warm else [])]
            digest = store.trial
        home = {"TEKAPCTL_HOME": str(self.folder.home.root)}
        with self.folder.log(task).open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "tekapctl",
                    "sweep",
                    *words,
                    str(self.folder.trial_file(digest)),
                    "--tied",
                ],
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=log,
                stderr=log,
                env=os.environ | home | self._variables[slot],
                start_new_session=True,  # Ctrl-C is for this process, which tells its workers
            )

    def _reap(self) -> None:
        """See which workers have ended, and why."""
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            if worker.process.stdin is not None:
                worker.process.stdin.close()
            code = worker.process.returncode
            if worker.task in self._stores:
                logger.info(self._last_line(worker.task) or f"asking a teacher beforehand ended with {code}")
            elif code == NotYetError.exit_code:
                self._tried.discard(worker.task)
            elif code and self._signal is None:
                self._note(worker.task, code)

    def _note(self, digest: str, code: int) -> None:
        """Keep why a worker ended, where nothing else says so."""
        standing = self._ledger.look(self.plan)[digest]
        if standing.state in ("waiting", "interrupted") and standing.error is None and code != 128 + signal.SIGTERM:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.folder.write_problem(digest, f"Its process ended with {how}: {self._last_line(digest) or 'no word'}")

    def _last_line(self, task: str) -> str | None:
        """The last that a worker wrote."""
        try:
            lines = self.folder.log(task).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return None
        return next((line for line in reversed(lines) if line.strip()), None)
