"""Run a sweep on this machine, with one process per trial."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from tekapctl.errors import TekapctlError
from tekapctl.experiments.sweeps.caches import CacheFill, cache_fills
from tekapctl.experiments.sweeps.folder import NotYetError, SweepFolder
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Ledger, Standing
from tekapctl.experiments.sweeps.workers import check, environment, present

logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between two checks of the workers."""


Show = Callable[[Mapping[str, Standing]], None]
"""Called regularly with the states of all trials."""


class SweepStoppedError(TekapctlError):
    """A signal stopped the sweep; all of its runs are kept.

    Args:
        number: The signal.
        again: The command that resumes it.
    """

    def __init__(self, number: int, again: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name}; all runs are kept.", f"Resume with `{again}`.")
        self.exit_code = 128 + number


@dataclass
class _Worker:
    """A process of the sweep.

    Attributes:
        task: The digest of its trial, or the key of the cache that it fills.
        process: The process.
        slot: Its slot, which determines its device.
    """

    task: str
    process: "subprocess.Popen[bytes]"
    slot: int


class LocalSweep:
    """Runs a sweep in processes of this machine.

    Args:
        plan: The sweep.
        folder: Its folder.
        workers: Number of processes at a time.
        on: Devices that are assigned to them in turn; empty to use each spec's own.
        retry: Retry failed trials.
        again: The command that resumes the sweep, for the user.
        show: Progress callback.
    """

    def __init__(
        self, plan: Plan, folder: SweepFolder, *, workers: int, on: Sequence[str], retry: bool, again: str, show: Show
    ) -> None:
        check(on, plan)
        self.plan, self.folder, self.again = plan, folder, again
        self.retry, self.show = retry, show
        self._variables = [environment(on[slot % len(on)] if on else None, workers) for slot in range(workers)]
        self._ledger = Ledger(folder.home)
        self._workers: list[_Worker] = []
        self._tried: set[str] = set()
        self._fills: dict[str, CacheFill] = {}
        self._cache_of: dict[str, str] = {}
        self._signal: int | None = None

    def run(self) -> dict[str, Standing]:
        """Run all unfinished trials; returns the final states.

        Raises:
            SweepStoppedError: A signal stopped the sweep; all runs are kept.
        """
        self.folder.write_trials(self.plan)
        standings = self._ledger.look(self.plan)
        wanted = {
            digest: self.plan.trials[digest]
            for digest, standing in standings.items()
            if standing.state != "finished" and (standing.state != "failed" or self.retry)
        }
        self._fills, self._cache_of = cache_fills(self.plan, wanted)
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
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

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt  # the workers stop at once when this process is gone
        self._signal = number
        logger.info("stopping after the current steps; all runs are kept (send the signal again to stop at once)")
        for worker in self._workers:
            worker.process.terminate()

    def _fill(self, standings: Mapping[str, Standing]) -> None:
        """Start workers while there are free slots and trials."""
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
        """Trials and cache fills that can start now, in the plan's order."""
        found: dict[str, None] = {}
        for digest, trial in self.plan.trials.items():
            standing = standings[digest]
            if digest in self._tried or standing.state in ("finished", "running"):
                continue
            if standing.state == "failed" and not self.retry:
                continue
            if any(standings[need.digest].state != "finished" for need in trial.requires.values()):
                continue
            cache = self._cache_of.get(digest)
            if cache is None or (cache in self._tried and all(worker.task != cache for worker in self._workers)):
                found[digest] = None
            elif cache not in self._tried:
                found[cache] = None
        return list(found)

    def _start(self, task: str, slot: int) -> "subprocess.Popen[bytes]":
        fill = self._fills.get(task)
        if fill is None:
            command = ["trial", *(["--retry"] if self.retry else [])]
        else:
            always = ["--always"] if self.plan.settings.fill_caches else []
            command = ["fill-cache", "--epochs", str(fill.epochs), *always]
        file = self.folder.trial_file(task if fill is None else fill.trial)
        home = {"TEKAPCTL_HOME": str(self.folder.home.root)}
        with self.folder.log(task).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "tekapctl", "sweep", *command, str(file), "--tied"],
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=log,
                stderr=log,
                env=os.environ | home | self._variables[slot],
                start_new_session=True,  # Ctrl-C reaches only this process, which stops its workers
            )

    def _reap(self) -> None:
        """Remove workers that have ended."""
        for worker in [each for each in self._workers if each.process.poll() is not None]:
            self._workers.remove(worker)
            if worker.process.stdin is not None:
                worker.process.stdin.close()
            code = worker.process.returncode
            if worker.task in self._fills:
                logger.info(self._last_line(worker.task) or f"filling a teacher cache ended with exit code {code}")
            elif code == NotYetError.exit_code:
                self._tried.discard(worker.task)
            elif code and self._signal is None:
                self._note(worker.task, code)

    def _note(self, digest: str, code: int) -> None:
        """Record why a worker ended if its run does not."""
        standing = self._ledger.look(self.plan)[digest]
        if standing.state in ("waiting", "interrupted") and standing.error is None and code != 128 + signal.SIGTERM:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            self.folder.write_problem(digest, f"Its process ended with {how}: {self._last_line(digest) or 'no output'}")

    def _last_line(self, task: str) -> str | None:
        """The last line of a worker's output."""
        try:
            lines = self.folder.log(task).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return None
        return next((line for line in reversed(lines) if line.strip()), None)
