"""Several students of one spec that differ in their seed, trained together: the teacher is asked once for all."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tekapctl.commands.tracking import Trackers
from tekapctl.data.batches import Batch
from tekapctl.distributed.communicator import was_launched
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec.run import StudentSpec, to_dict
from tekapctl.store.home import Home
from tekapctl.store.runs import Run
from tekapctl.train.build import RunContext, build_run, sibling
from tekapctl.train.callbacks import Interruption, NullCallback, ProgressFile, StoppedError
from tekapctl.train.describe import log_run, warn_if_chance
from tekapctl.train.run import RunCheckpointer, fail, finish, start, training_in_words, with_checkpoint
from tekapctl.train.trainer import Callback, Trainer

logger = logging.getLogger(__name__)

LARGEST_SEED = 2**63
"""No seed is as large."""


@dataclass
class _Trial:
    run: Run
    context: RunContext
    trackers: Trackers
    checkpointer: RunCheckpointer
    callback: Callback


def execute_trials(
    spec: StudentSpec,
    count: int,
    home: Home,
    callback: Callback,
) -> list[dict[str, Any]]:
    """Carry out a spec with so many seeds, from its own on, and return the runs' summaries.

    Each is a run of its own in every respect but one: all see the first one's batches (`data_seed`). A run that fails
    ends alone; its summary then says so.

    Args:
        spec: The spec.
        count: How many seeds.
        home: Where everything is.
        callback: Is told how the first run goes on.

    Raises:
        UsageError: The spec asks for what is not to be had; nothing was written then.
        StoppedError: A signal stopped them; each goes on alone with `tekapctl resume`.
    """
    if was_launched():
        raise UsageError("Trials share one process, and several were started.", "Leave out --seeds, or torchrun.")
    if spec.seed + count > LARGEST_SEED:
        raise UsageError(
            f"{count} seeds from {spec.seed} on go beyond {LARGEST_SEED - 1}.", "Start with a smaller --seed."
        )
    Trackers.check(spec.track)
    first = build_run(spec.model_copy(update={"data_seed": spec.batch_seed}), home, share_teachers=count > 1)
    assert isinstance(first.spec, StudentSpec)
    settings = [first]
    for number in range(1, count):
        settings.append(sibling(first, first.spec.model_copy(update={"seed": spec.seed + number})))
    interruption = Interruption()
    with ExitStack() as held, interruption.listening():
        trials = []
        for number, context in enumerate(settings):
            run = held.enter_context(start(context, home))
            trackers = Trackers(context.spec.track)
            trackers.start(run.id, run.path, to_dict(context.spec), [])
            checkpointer = RunCheckpointer(run, context, interruption, trackers)
            trials.append(
                _Trial(run, context, trackers, checkpointer, ProgressFile(run, NullCallback() if number else callback))
            )
        log_run(first)
        logger.info(f"runs: {', '.join(trial.run.id for trial in trials)}")
        summaries = _fit(trials)
        return [summaries[trial.run.id] for trial in trials]


def _fit(
    trials: list[_Trial],
) -> dict[str, dict[str, Any]]:
    """Train all of them, step by step; returns summaries by the runs' ids."""
    summaries: dict[str, dict[str, Any]] = {}
    going = list(trials)
    for trial in trials:
        trainer = trial.context.trainer
        trial.callback.on_start(trainer.spec.total_epochs, len(trainer.train_batches), 0)

    def each(work: Any) -> None:
        """Do something for every run that still goes on; one that fails ends alone, a signal ends all."""
        stopped: list[StoppedError] = []
        for trial in list(going):
            try:
                with training_in_words(trial.context.trainer):
                    work(trial)
            except StoppedError as error:
                stopped.append(error)
                trial.trackers.finish({"run": trial.run.id, "status": "interrupted"})
            except TekapctlError as error:
                going.remove(trial)
                error = with_checkpoint(error, trial.run)
                summaries[trial.run.id] = fail(trial.run, error, trial.trackers)
                logger.info(f"{trial.run.id} has failed: {error}")
        if stopped:
            runs = ", ".join(trial.run.id for trial in going)
            stopped[0].remedy = f"Each goes on alone with `tekapctl resume`: {runs}."
            raise stopped[0]

    while going and not going[0].context.trainer.is_done:
        leader = going[0].context.trainer
        each(lambda trial: trial.context.trainer.start_epoch())
        for batch in _in_words(leader):
            each(lambda trial, batch=batch: trial.context.trainer.take(batch))
            each(_after_step)
        each(_after_epoch)

    def finish_one(trial: _Trial) -> None:
        summary = summaries[trial.run.id] = finish(trial.run, trial.context)
        warn_if_chance(f"student of seed {trial.context.spec.seed}", summary["last_top1"], trial.context)
        trial.trackers.finish(summaries[trial.run.id])

    each(finish_one)
    return summaries


def _in_words(leader: Trainer) -> Iterator[Batch]:
    """What is left of an epoch; errors of making a batch, such as a lack of memory, in words."""
    batches = leader.batches()
    while True:
        with training_in_words(leader):
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
