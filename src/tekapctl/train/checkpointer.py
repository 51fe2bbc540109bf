"""Writes a run's training state, metrics and best weights while it trains."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.store.weights import encode_weights
from tekapctl.tracking import Trackers
from tekapctl.train import checkpoint
from tekapctl.train.build import RunContext
from tekapctl.train.callbacks import Interruption, StoppedError
from tekapctl.train.step import Metrics
from tekapctl.train.summary import weights_metadata

_PAUSE = 0.5
"""Seconds between checks of several processes whether one of them received a signal."""
_MOST_STEPS = 1000
_SHARE = 20
"""After an epoch, the training state is written if this many times as long as writing it took has passed."""
Work = Callable[[], None]


class RunCheckpointer(AbstractContextManager["RunCheckpointer"]):
    """Writes a run's training state, metrics and best weights, and stops it after a signal.

    A thread writes the files while training goes on, each from a copy, and one after the other. At the end of the run,
    and when it stops, the files are there. Only the main process writes and has trackers. Processes check together
    whether one of them received a signal, so that all stop after the same step.
    """

    def __init__(self, run: Run, context: RunContext, interruption: Interruption, trackers: Trackers | None) -> None:
        self.run = run
        self.trackers = trackers
        self.context = context
        self.comm = context.trainer.comm
        self.interruption = interruption
        self._kept = self._asked = time.monotonic()
        self._pause = self._steps = 1
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._duration = 0.0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread; its error is raised, unless there is one already."""
        if error is not None:
            self.close()
        self._thread.shutdown()
        self._await_thread()

    def close(self) -> None:
        """Wait for the thread after the run has failed, whose error is the one to report."""
        self._thread.shutdown()
        self._writing = None

    def after_step(self) -> None:
        """Write the training state every `checkpoint_minutes`, and before the run stops."""
        self._steps -= 1
        if self._steps:
            return
        signal, due, self._steps = self.comm.all_reduce_max(
            (self.interruption.signal or 0, self._is_due(), self._next_pause())
        )
        if not signal and not due:
            return
        trainer = self.context.trainer
        trainer.check_finite()
        self._write([], with_state=True, wait=bool(signal))
        if signal:
            raise self._stopped(f"after step {trainer.progress.step} of epoch {trainer.progress.epoch + 1}", signal)

    def after_epoch(self, metrics: Metrics, is_best: bool) -> None:
        """Write the epoch's metrics, the weights if they are the best so far, and the training state if it is time."""
        trainer, best = self.context.trainer, list[Work]()
        with self.comm.raise_together():
            if self.comm.is_main:
                self.run.check_there()
                if is_best:
                    weights, metadata = trainer.averaged.state_dict(), weights_metadata(self.context, metrics)
                    content = encode_weights(weights, metadata)
                    best.append(lambda: self.run.write_weights(WEIGHTS["best"], content))
        signal, due = self.comm.all_reduce_max((self.interruption.signal or 0, self._is_due(after_epoch=True)))
        is_last = bool(signal) or trainer.is_done
        self._write(best, with_state=bool(due) or is_last, wait=is_last)
        with self.comm.raise_together():
            if self.trackers is not None:
                self.run.append_metrics(metrics)
                self.trackers.log(metrics)
        if signal and not trainer.is_done:
            raise self._stopped(f"after epoch {trainer.progress.epoch}", signal)

    def _is_due(self, *, after_epoch: bool = False) -> int:
        """1 in the main process if it is time to write the training state, or the thread has failed; else 0."""
        if not self.comm.is_main:
            return 0
        since = time.monotonic() - self._kept
        wanted = min(60 * self.context.spec.checkpoint_minutes, _SHARE * self._duration if after_epoch else math.inf)
        has_failed = self._writing is not None and self._writing.done() and self._writing.exception() is not None
        return int(since >= wanted or has_failed)

    def _next_pause(self) -> int:
        """Steps until the next check of all processes, by the main process's clock."""
        if self.comm.world_size == 1:
            return 1
        now = time.monotonic()
        a_step = (now - self._asked) / self._pause
        self._asked, self._pause = now, min(max(1, round(_PAUSE / max(a_step, 1e-6))), _MOST_STEPS)
        return self._pause if self.comm.is_main else 0

    def _stopped(self, where: str, signal: int) -> StoppedError:
        error = StoppedError(self.run.id, where, signal)
        error.is_told = not self.comm.is_main
        return error

    def _write(self, work: list[Work], *, with_state: bool, wait: bool) -> None:
        """Have the thread write files, and the training state after them; an error of those before is raised.

        If it is to `wait`, it returns when the files are there.
        """
        trainer = self.context.trainer
        epoch, step, state = trainer.progress.epoch, trainer.progress.step, trainer.state() if with_state else None
        with self.comm.raise_together():
            if self.comm.is_main and (work or state is not None):
                self._await_thread()  # before there is another copy
                if state is not None:
                    copied = checkpoint.host_copy(state, trainer.device)
                    work = [*work, lambda: self._save(epoch, step, copied)]
                self._writing = self._thread.submit(_each, work)
                if wait:
                    self._await_thread()
        if with_state:
            self._kept = time.monotonic()

    def _save(self, epoch: int, step: int, state: dict[str, Any]) -> None:
        began = time.monotonic()
        self.run.check_there()
        try:
            checkpoint.save(self.run.checkpoints, epoch, step, state)
        except TekapctlError:
            self.run.check_there()  # it may have been deleted meanwhile
            raise
        self._duration = time.monotonic() - began

    def _await_thread(self) -> None:
        """Wait until the thread has nothing to do.

        Raises:
            TekapctlError: A file could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _each(work: list[Work]) -> None:
    while work:
        work.pop(0)()  # so that copies are freed
