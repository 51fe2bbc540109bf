"""Writes a run's training state, metrics and best weights while it trains."""

import time

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


class RunCheckpointer:
    """Writes a run's training state, metrics and best weights, and stops it after a signal.

    Only the main process writes. Processes check together whether one of them received a signal, so that all stop after
    the same step.

    Args:
        run: The run.
        context: What it trains with.
        interruption: Whether a signal was received.
        trackers: Log each epoch's metrics; None in all processes but the main one.
    """

    def __init__(self, run: Run, context: RunContext, interruption: Interruption, trackers: Trackers | None) -> None:
        self.run = run
        self.trackers = trackers
        self.context = context
        self.comm = context.trainer.comm
        self.interruption = interruption
        self._kept = self._asked = time.monotonic()
        self._pause = self._steps = 1

    def after_step(self) -> None:
        """Write the training state every `checkpoint_minutes`, and before the run stops."""
        self._steps -= 1
        if self._steps:
            return
        is_due = time.monotonic() - self._kept >= 60 * self.context.spec.checkpoint_minutes
        signal, due, self._steps = self.comm.all_reduce_max(
            (self.interruption.signal or 0, int(self.comm.is_main and is_due), self._next_pause())
        )
        if not signal and not due:
            return
        trainer = self.context.trainer
        trainer.check_finite()
        self._write_state()
        if signal:
            raise self._stopped(f"after step {trainer.progress.step} of epoch {trainer.progress.epoch + 1}", signal)

    def after_epoch(self, metrics: Metrics, is_best: bool) -> None:
        """Write the epoch's metrics and training state, and the weights if they are the best so far."""
        trainer = self.context.trainer
        with self.comm.raise_together():
            if is_best and self.comm.is_main:
                weights, metadata = trainer.network.state_dict(), weights_metadata(self.context, metrics)
                self.run.write_weights(WEIGHTS["best"], encode_weights(weights, metadata))
        self._write_state()
        with self.comm.raise_together():
            if self.trackers is not None:
                self.run.append_metrics(metrics)
                self.trackers.log(metrics)
        (signal,) = self.comm.all_reduce_max((self.interruption.signal or 0,))
        if signal and trainer.progress.epoch < trainer.spec.total_epochs:
            raise self._stopped(f"after epoch {trainer.progress.epoch}", signal)

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

    def _write_state(self) -> None:
        progress, state = self.context.trainer.progress, self.context.trainer.state()
        with self.comm.raise_together():
            if self.comm.is_main:
                self.run.check_there()
                checkpoint.save(self.run.checkpoints, progress.epoch, progress.step, state)
        self._kept = time.monotonic()
