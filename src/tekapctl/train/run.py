"""Runs a spec from beginning to end, and resumes runs that were stopped."""

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import MappingProxyType
from typing import Any

from tekapctl.distributed.communicator import PeerLostError, join_process_group
from tekapctl.errors import (
    OutOfMemoryError,
    TekapctlError,
    UnexpectedError,
    UsageError,
    failures_in_words,
    first_line,
    smaller_batches,
)
from tekapctl.spec import StudentSpec, TeacherSpec, dumps, load_of_run, parse, to_dict
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs
from tekapctl.tracking import Trackers
from tekapctl.train import checkpoint
from tekapctl.train.build import RunContext, build_run
from tekapctl.train.callbacks import Callback, Interruption, NullCallback, ProgressFile, StoppedError
from tekapctl.train.checkpointer import RunCheckpointer
from tekapctl.train.continuing import carry_over, check_begins_anew, continued
from tekapctl.train.summary import environment, finish, label, log_run, warn_if_chance
from tekapctl.train.trainer import DivergedError, Trainer

logger = logging.getLogger(__name__)

_TRACEBACK = "traceback.txt"
"""Holds the traceback of a failed run."""


def execute(
    spec: TeacherSpec | StudentSpec,
    home: Home,
    callback: Callback,
    files: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Train what a spec describes, and return the summary that is also in the run's folder.

    If a launcher has started several processes, they train together and the first of them writes. The texts in `files`
    are written to the run's folder too, by name.

    Raises:
        UsageError: Data, teacher, device or a tracker is missing; nothing was written.
        TekapctlError: The run failed; its folder keeps the last checkpoint.
    """
    with join_process_group() as comm, ExitStack() as held:
        with comm.raise_together():
            check_begins_anew(spec)
            Trackers.check(spec.track)
        context = build_run(spec, home, comm)
        run = _begin(context, home, held, files)
        log_run(context)
        logger.info(f"run: {run.id}")
        return _train(run, context, callback)


def start(
    context: RunContext, home: Home, files: Mapping[str, str] = MappingProxyType({})
) -> AbstractContextManager[Run]:
    """Create and lock the folder of a run; the lock is released when the context ends."""
    files = {
        **files,
        "spec.toml": dumps(context.spec),
        "environment.json": json.dumps(environment(context.trainer), indent=2) + "\n",
    }
    return Runs(home.runs).start(label(context), files)


def _begin(
    context: RunContext, home: Home, held: ExitStack, files: Mapping[str, str], source: Run | None = None
) -> Run:
    """Start a run in the main process, with what it takes over from the run that it continues."""
    comm, name = context.trainer.comm, ""
    with comm.raise_together():
        if comm.is_main:
            run = held.enter_context(start(context, home, files))
            if source is not None:
                carry_over(source, run)
            name = run.id
    return Run(home.runs / comm.all_gather_object(name)[0])


def resume(reference: str, home: Home, callback: Callback, track: Sequence[str] = ()) -> dict[str, Any]:
    """Resume a run that was stopped from its newest intact checkpoint, and return its summary.

    The number of processes may differ from the one it began with. The trackers `track` are used besides those of its
    spec.

    Raises:
        UsageError: There is no such run, it is finished, or its data, its teacher or a tracker is missing.
        TekapctlError: It is still running, or it failed.
    """
    with join_process_group() as comm, ExitStack() as held:
        with comm.raise_together():
            run = Runs(home.runs).find(reference)
            if comm.is_main:
                if run.status == "finished":
                    raise UsageError(
                        f"The run {run.id} is finished.",
                        f"See it with `tekapctl runs show {run.id}`, or set `epochs` to train it longer.",
                    )
                held.enter_context(run.lock())
            spec = load_of_run(run.path)
            tracked = parse({**to_dict(spec), "track": [*spec.track, *track]})
            Trackers.check(tracked.track)
            has_state = tracked.continues is not None or checkpoint.exists(run.checkpoints)
        context = build_run(tracked, home, comm, is_restored=has_state)
        with comm.raise_together():
            if comm.is_main and tracked.track != spec.track:
                run.write_text("spec.toml", dumps(context.spec))
        return _resume(run, context, callback)


def train_longer(
    reference: str, epochs: int, home: Home, callback: Callback, track: Sequence[str] = ()
) -> dict[str, Any]:
    """Train a finished run longer, as a new run that starts from its last state; returns the new run's summary.

    The schedule is that of the new number of epochs in total, from where the finished run ended: after a decay the
    learning rate may rise again. The trackers `track` are used besides those of its spec.

    Raises:
        UsageError: The run is not finished, has as many epochs already, or its last state was not kept.
        TekapctlError: The new run failed; its folder keeps the last checkpoint.
    """
    with join_process_group() as comm, ExitStack() as held:
        with comm.raise_together():
            source = Runs(home.runs).find(reference)
            spec = continued(source, epochs, track)
            Trackers.check(spec.track)
        context = build_run(spec, home, comm, is_restored=True)
        run = _begin(context, home, held, {}, source)
        before = load_of_run(source.path)
        logger.info(
            f"continuing {source.id}: the learning rate was {before.rate(before.epochs - 1):.3g} in its last epoch and "
            f"is {spec.rate(before.epochs):.3g} in the next, by the schedule for {spec.epochs} epochs"
        )
        return _resume(run, context, callback)


def _resume(run: Run, context: RunContext, callback: Callback) -> dict[str, Any]:
    """Train a run from its newest checkpoint on."""
    _restore(run, context)
    progress = context.trainer.progress
    log_run(context)
    logger.info(f"run: {run.id}, after epoch {progress.epoch} of {context.spec.total_epochs}, at step {progress.step}")
    with context.trainer.comm.raise_together():
        if context.trainer.comm.is_main:
            # Epochs after the checkpoint are trained again.
            run.write_metrics(progress.history)
            for name in ("summary.json", _TRACEBACK):
                (run.path / name).unlink(missing_ok=True)
    return _train(run, context, callback)


def _restore(run: Run, context: RunContext) -> None:
    """Load the newest intact checkpoint, if there is one; the main process chooses it."""
    trainer = context.trainer
    place: tuple[int, int] | None = None
    with trainer.comm.raise_together():
        if trainer.comm.is_main:
            state, damaged = checkpoint.newest(run.checkpoints, trainer.device)
            if state is None and not damaged and context.spec.continues is not None:
                # The process ended before it had copied them.
                carry_over(Run(run.path.with_name(context.spec.continues.run)), run)
                state, damaged = checkpoint.newest(run.checkpoints, trainer.device)
            for path in damaged:
                logger.info(f"the checkpoint {path.name} is damaged and was skipped")
            if damaged and state is None:
                raise TekapctlError(
                    f"All checkpoints of the run {run.id} are damaged.",
                    f"Start a new run with the settings in {run.path / 'spec.toml'}.",
                )
            checkpoint.set_aside(damaged)
            if state is not None:
                place = _restore_state(run, trainer, state)
    place = trainer.comm.all_gather_object(place)[0]
    with trainer.comm.raise_together():
        if place is not None and not trainer.comm.is_main:
            _restore_state(run, trainer, checkpoint.read(checkpoint.place(run.checkpoints, *place), trainer.device))


def _restore_state(run: Run, trainer: Trainer, state: dict[str, Any]) -> tuple[int, int]:
    """Load a training state; returns its epoch and step.

    Raises:
        TekapctlError: It does not match the run's spec.
    """
    try:
        trainer.restore(state)
        epoch, step = int(trainer.progress.epoch), int(trainer.progress.step)
        # A checkpoint after an epoch's last step is written before its test.
        if not (0 <= epoch <= trainer.spec.total_epochs and 0 <= step <= len(trainer.train_batches)):
            raise ValueError(f"it is of step {step} after epoch {epoch}")
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TekapctlError(
            f"The checkpoint of the run {run.id} does not match its spec: {first_line(error)}.",
            "Restore the spec.toml that the run began with, or start a new run.",
        ) from None
    return epoch, step


def _train(run: Run, context: RunContext, callback: Callback) -> dict[str, Any]:
    trainer, interruption = context.trainer, Interruption()
    if not trainer.comm.is_main:
        checkpointer = RunCheckpointer(run, context, interruption, None)
        with interruption.listening(), training_in_words(trainer), checkpointer:
            trainer.fit(NullCallback(), checkpointer)
        return {"run": run.id, "status": "finished"}
    trackers = Trackers(context.spec.track)
    trackers.start(run.id, run.path, to_dict(context.spec), context.trainer.progress.history)
    try:
        with training_in_words(trainer):
            with interruption.listening(), RunCheckpointer(run, context, interruption, trackers) as checkpointer:
                trainer.fit(ProgressFile(run, callback), checkpointer)
            summary = finish(run, context)
        who = "student" if context.teachers else "network"
        warn_if_chance(who, summary["last_top1"], context)
        trackers.finish(summary)
        return summary
    except StoppedError:
        trackers.finish({"run": run.id, "status": "interrupted"})
        raise
    except TekapctlError as error:
        told = with_checkpoint(error, run)
        fail(run, told, trackers)
        raise told from told.__cause__


def training_in_words(trainer: Trainer) -> AbstractContextManager[None]:
    """Turn any exception during training, or the evaluation after it, into one of the program's errors."""
    return failures_in_words(
        lambda: trainer.place,
        smaller=smaller_batches(trainer.spec.batch_size),
        remedy=f"{_TRACEBACK} in the run's folder shows where; fix it and continue with `tekapctl resume RUN`.",
        spared=(),
    )


def with_checkpoint(error: TekapctlError, run: Run) -> TekapctlError:
    """The error that ended a run, with the checkpoint from which it can be resumed."""
    if not isinstance(error, DivergedError | PeerLostError | UnexpectedError | OutOfMemoryError | UsageError):
        return error
    where = checkpoint.described(run.checkpoints)
    kind = DivergedError if isinstance(error, DivergedError) else TekapctlError
    told = kind(f"{error.problem[:-1]}; {where}.", error.remedy.replace("RUN", run.id))
    told.__cause__ = error.__cause__
    return told


def fail(run: Run, error: TekapctlError, trackers: Trackers) -> dict[str, Any]:
    """Write why a run failed; returns its summary."""
    failed: dict[str, Any] = {"run": run.id, "status": "failed", "error": str(error)}
    failed["diverged"] = isinstance(error, DivergedError)
    with suppress(TekapctlError):  # the first error is the one to report
        run.write_summary(failed)
        if error.__cause__ is not None:
            told = "".join(traceback.format_exception(error.__cause__))
            run.write_text(_TRACEBACK, told.encode(errors="replace").decode())
    trackers.finish(failed)
    return failed
