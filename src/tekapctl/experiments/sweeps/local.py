"""Run a sweep on this machine, with one process per trial."""

import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from filelock import FileLock

from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.experiments.sweeps.folder import NotYetError, SweepFolder
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Ledger, Standing
from tekapctl.experiments.sweeps.trial import CacheFill, cache_fills
from tekapctl.store.atomic import make_folder
from tekapctl.store.locks import is_locked

logger = logging.getLogger(__name__)

_PAUSE = 0.2
"""Seconds between two checks of the workers."""
_DEVICE = re.compile(r"cpu|cuda:(\d{1,3})")

Show = Callable[[Mapping[str, Standing]], None]
"""Called regularly with the states of all trials."""


class SweepStoppedError(TekapctlError):
    """A signal stopped the sweep; all of its runs are kept."""

    def __init__(self, number: int, again: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name}; all runs are kept.", f"Resume with `{again}`.")
        self.exit_code = 128 + number


class _Worker(NamedTuple):
    """A process of the sweep, which runs a trial (its digest) or fills a cache (its key)."""

    task: str
    process: "subprocess.Popen[bytes]"
    slot: int


class LocalSweep:
    """Runs a sweep in processes of this machine, which get the devices `on` in turn, or without any each spec's own.

    The user is told to resume it with the command `again`; `show` is called as it proceeds.
    """

    def __init__(
        self, plan: Plan, folder: SweepFolder, *, workers: int, on: Sequence[str], retry: bool, again: str, show: Show
    ) -> None:
        check_devices(on, plan)
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
                    elsewhere = False
                    if self._signal is None:
                        self._fill(standings)
                        elsewhere = any(standing.state == "running" for standing in standings.values())
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


def check_devices(devices: Sequence[str], plan: Plan) -> None:
    """Check that devices can be assigned to workers.

    Raises:
        UsageError: A name is not a device, or a spec sets its own device.
    """
    for name in devices:
        if not _DEVICE.fullmatch(name):
            raise UsageError(f"{name!r} is not a device.", "Use cpu, or CUDA devices such as `devices=cuda:0,cuda:1`.")
    for trial in plan.trials.values() if devices else ():
        if trial.spec.device not in ("auto", "cuda") and [trial.spec.device] != list(devices):
            raise UsageError(
                f"{trial.label} sets its own device, {trial.spec.device}, which conflicts with `devices`.",
                "Remove device from the file, or leave out `devices`.",
            )


def environment(device: str | None, workers: int) -> dict[str, str]:
    """Environment variables of a worker on a device (None for all devices); several workers share the CPU.

    A worker sees only its own device, so that specs need not name it and runs can resume on another one.

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
                f"There is no device {device}: CUDA_VISIBLE_DEVICES lists {len(visible)}.", "Use fewer `devices`."
            )
        found["CUDA_VISIBLE_DEVICES"] = visible[number] if visible else str(number)
    return found
