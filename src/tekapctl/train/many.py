"""Trains several seeds of a spec at once, sharing the batches and the teacher's forward pass."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tekapctl.data.batch import Batch
from tekapctl.distributed.communicator import was_launched
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec import RunSpec, to_dict
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.tracking import Trackers
from tekapctl.train.build import RunContext, build_run, sibling
from tekapctl.train.callbacks import Callback, Interruption, NullCallback, ProgressFile, StoppedError
from tekapctl.train.checkpointer import RunCheckpointer
from tekapctl.train.continuing import check_begins_anew
from tekapctl.train.run import fail, start, training_in_words, with_checkpoint
from tekapctl.train.summary import finish, log_run, warn_if_chance
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)

LARGEST_SEED = 2**63
"""Seeds are smaller."""


@dataclass
class _Trial:
    run: Run
    context: RunContext
    trackers: Trackers
    checkpointer: RunCheckpointer
    callback: Callback


def execute_seeds(spec: RunSpec, count: int, home: Home, callback: Callback) -> list[dict[str, Any]]:
    """Train a spec with `count` consecutive seeds at once, and return the runs' summaries.

    Each is a run of its own, except that all see the batches of the first (`data_seed`). A run that fails ends alone,
    and its summary says why.

    Raises:
        UsageError: Data, teacher, device or a tracker is missing; nothing was written.
        StoppedError: A signal stopped them; each can be resumed alone.
    """
    if was_launched():
        raise UsageError(
            "Several seeds at once are trained in one process, and several were started.",
            "Leave out `seeds`, or torchrun.",
        )
    if spec.seed + count > LARGEST_SEED:
        raise UsageError(
            f"{count} seeds from {spec.seed} on exceed {LARGEST_SEED - 1}.", "Start with a smaller `seed`."
        )
    check_begins_anew(spec)
    Trackers.check(spec.track)
    first = build_run(spec.model_copy(update={"data_seed": spec.batch_seed}), home, share_teachers=count > 1)
    contexts = [first]
    for number in range(1, count):
        contexts.append(sibling(first, first.spec.model_copy(update={"seed": spec.seed + number})))
    interruption = Interruption()
    with ExitStack() as held, interruption.listening():
        trials = []
        for number, context in enumerate(contexts):
            run = held.enter_context(start(context, home))
            trackers = Trackers(context.spec.track)
            trackers.start(run.id, run.path, to_dict(context.spec), [])
            checkpointer = held.enter_context(RunCheckpointer(run, context, interruption, trackers))
            trials.append(
                _Trial(run, context, trackers, checkpointer, ProgressFile(run, NullCallback() if number else callback))
            )
        log_run(first)
        logger.info(f"runs: {', '.join(trial.run.id for trial in trials)}; epochs are shown for seed {first.spec.seed}")
        summaries = _fit(trials)
        return [summaries[trial.run.id] for trial in trials]


def _fit(trials: list[_Trial]) -> dict[str, dict[str, Any]]:
    """Train all of them, step by step; returns summaries by run id."""
    summaries: dict[str, dict[str, Any]] = {}
    running = list(trials)
    for trial in trials:
        trainer = trial.context.trainer
        trial.callback.on_start(trainer.spec.total_epochs, len(trainer.train_batches), 0)

    def each(work: Any, among: list[_Trial]) -> None:
        """Do something for those runs that have not failed; an error ends its run alone, a signal ends all."""
        stopped: list[StoppedError] = []
        for trial in [trial for trial in among if trial in running]:
            try:
                with training_in_words(trial.context.trainer):
                    work(trial)
            except StoppedError as error:
                stopped.append(error)
                trial.trackers.finish({"run": trial.run.id, "status": "interrupted"})
            except TekapctlError as error:
                running.remove(trial)
                trial.checkpointer.close()
                error = with_checkpoint(error, trial.run)
                summaries[trial.run.id] = fail(trial.run, error, trial.trackers)
                logger.info(f"{trial.run.id} failed: {error}")
        if stopped:
            runs = ", ".join(trial.run.id for trial in running)
            stopped[0].remedy = f"Resume each of them with `tekapctl resume`: {runs}."
            raise stopped[0]

    # Some may stop early.
    while training := [trial for trial in running if not trial.context.trainer.is_done]:
        each(lambda trial: trial.context.trainer.start_epoch(), training)
        for batch in _batches(training[0].context.trainer):
            each(lambda trial, batch=batch: trial.context.trainer.train_step(batch), training)
            if batch.ends_step:
                each(_after_step, training)
        each(_after_epoch, training)

    def finish_one(trial: _Trial) -> None:
        summary = summaries[trial.run.id] = finish(trial.run, trial.context)
        warn_if_chance(
            f"{trial.context.spec.network} with seed {trial.context.spec.seed}", summary["last_top1"], trial.context
        )
        trial.trackers.finish(summaries[trial.run.id])

    each(finish_one, running)
    return summaries


def _batches(trainer: Trainer) -> Iterator[Batch]:
    """The rest of an epoch; errors while a batch is made, such as a lack of memory, are translated."""
    batches = trainer.batches()
    while True:
        with training_in_words(trainer):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _after_step(trial: _Trial) -> None:
    progress = trial.context.trainer.progress
    trial.callback.on_step(progress.epoch, progress.step - 1)
    trial.checkpointer.after_step()


def _after_epoch(trial: _Trial) -> None:
    metrics, is_best = trial.context.trainer.end_epoch()
    trial.checkpointer.after_epoch(metrics, is_best)
    trial.callback.on_epoch(metrics)
