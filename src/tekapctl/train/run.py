"""Carries out a run: from its spec to its summary."""

import json
import logging
import platform
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tekapctl import __version__
from tekapctl.commands.tracking import Trackers
from tekapctl.device import describe
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator, PeerLostError, join_process_group
from tekapctl.errors import (
    OutOfMemoryError,
    TekapctlError,
    UnexpectedError,
    UsageError,
    failures_in_words,
    smaller_batches,
)
from tekapctl.spec.run import RunSpec, StudentSpec, TeacherSpec, dumps, load_of_run, parse, to_dict
from tekapctl.store.home import Home
from tekapctl.store.runs import Run, Runs
from tekapctl.store.weights import encode_weights
from tekapctl.train import checkpoint
from tekapctl.train.build import RunContext, prepare
from tekapctl.train.callbacks import Interruption, NullCallback, ProgressFile, StoppedError
from tekapctl.train.describe import log_run, warn_if_chance
from tekapctl.train.evaluation import evaluate
from tekapctl.train.step import Metrics
from tekapctl.train.trainer import Callback, DivergedError, Trainer

logger = logging.getLogger(__name__)

_PAUSE = 0.5
"""Seconds between two looks of several processes at whether one of them was told to stop."""
_MOST_STEPS = 1000
_TRACEBACK = "traceback.txt"
"""Where a failed run keeps what Python says of the error."""


def execute(
    spec: TeacherSpec | StudentSpec,
    home: Home,
    callback: Callback,
    files: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Carry out a run and return its summary, which is also in the run's folder.

    Where a launcher has started several processes, they carry it out together, and the first of them writes.

    Args:
        spec: What to carry out.
        home: Where runs, teachers and data sets are.
        callback: Is told how it goes on.
        files: Texts by name that the run's folder has from its beginning, besides its own.

    Raises:
        UsageError: The spec asks for what is not to be had; nothing was written then.
        TekapctlError: The run failed; its folder holds what it reached.
    """
    with join_process_group() as comm, ExitStack() as held:
        with comm.raise_together():
            Trackers.check(spec.track)
        context = prepare(spec, home, comm)
        name = ""
        with comm.raise_together():
            if comm.is_main:
                name = held.enter_context(start(context, home, files)).id
        run = Run(home.runs / comm.all_gather_object(name)[0])
        log_run(context)
        logger.info(f"run: {run.id}")
        return _train(run, context, callback)


def start(
    context: RunContext, home: Home, files: Mapping[str, str] = MappingProxyType({})
) -> AbstractContextManager[Run]:
    """Make the folder of a run, with further files from its beginning; it is held until the context ends."""
    files = {
        **files,
        "spec.toml": dumps(context.spec),
        "environment.json": json.dumps(environment(context.trainer.device, context.trainer.comm), indent=2) + "\n",
    }
    return Runs(home.runs).start(label(context), files)


def resume(reference: str, home: Home, callback: Callback, track: Sequence[str] = ()) -> dict[str, Any]:
    """Go on with a run that was stopped, from its newest whole checkpoint, and return its summary.

    It may go on with another number of processes than it began with.

    Args:
        reference: The run's id, a unique prefix of it, or `latest`.
        home: Where it is.
        callback: Is told how it goes on.
        track: Trackers that follow it from now on, besides those of its spec.

    Raises:
        UsageError: There is no such run, it is finished, a tracker is not to be had, or its data or teacher are gone.
        TekapctlError: It is running, or it failed.
    """
    with join_process_group() as comm, ExitStack() as held:
        with comm.raise_together():
            run = Runs(home.runs).find(reference)
            if comm.is_main:
                if run.status == "finished":
                    raise UsageError(f"The run {run.id} is finished.", f"See it with `tekapctl runs show {run.id}`.")
                held.enter_context(run.lock())
            spec = load_of_run(run.path)
            tracked = parse({**to_dict(spec), "track": [*spec.track, *track]})
            Trackers.check(tracked.track)
        context = prepare(tracked, home, comm)
        with comm.raise_together():
            if comm.is_main and tracked.track != spec.track:
                run.write_text("spec.toml", dumps(context.spec))
        _restore(run, context)
        progress = context.trainer.progress
        log_run(context)
        logger.info(
            f"run: {run.id}, after epoch {progress.epoch} of {context.spec.total_epochs}, at step {progress.step}"
        )
        with comm.raise_together():
            if comm.is_main:
                # What was measured after the checkpoint will be measured again.
                run.write_metrics(progress.history)
                for name in ("summary.json", _TRACEBACK):
                    (run.path / name).unlink(missing_ok=True)
        return _train(run, context, callback)


def _restore(
    run: Run,
    context: RunContext,
) -> None:
    """Go back to the newest whole checkpoint, if there is one; the leader says which it is."""
    trainer = context.trainer
    place: tuple[int, int] | None = None
    with trainer.comm.raise_together():
        if trainer.comm.is_main:
            state, damaged = checkpoint.newest(run.checkpoints, trainer.device)
            for path in damaged:
                logger.info(f"the checkpoint {path.name} is damaged and was passed over")
            if damaged and state is None:
                raise TekapctlError(
                    f"All checkpoints of the run {run.id} are damaged.",
                    f"Start a new run with its settings: --spec {run.path / 'spec.toml'}.",
                )
            checkpoint.set_aside(damaged)
            if state is not None:
                place = _restore_state(run, trainer, state)
    place = trainer.comm.all_gather_object(place)[0]
    with trainer.comm.raise_together():
        if place is not None and not trainer.comm.is_main:
            _restore_state(run, trainer, checkpoint.read(checkpoint.place(run.checkpoints, *place), trainer.device))


def _restore_state(run: Run, trainer: Trainer, state: dict[str, Any]) -> tuple[int, int]:
    """Go back to a training state; returns its epoch and step.

    Raises:
        TekapctlError: It does not fit the run's spec.
    """
    try:
        trainer.restore(state)
        epoch, step = int(trainer.progress.epoch), int(trainer.progress.step)
        # A checkpoint after the last step of an epoch comes before its test.
        if not (0 <= epoch <= trainer.spec.total_epochs and 0 <= step <= len(trainer.train_batches)):
            raise ValueError(f"it is of step {step} after epoch {epoch}")
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TekapctlError(
            f"The checkpoint of the run {run.id} does not fit its spec: {why.rstrip('.:')}.",
            "Put spec.toml back as it was when the run began, or start a new run.",
        ) from None
    return epoch, step


def _train(
    run: Run,
    context: RunContext,
    callback: Callback,
) -> dict[str, Any]:
    trainer, interruption = context.trainer, Interruption()
    if not trainer.comm.is_main:
        with interruption.listening(), training_in_words(trainer):
            trainer.fit(NullCallback(), RunCheckpointer(run, context, interruption, None))
        return {"run": run.id, "status": "finished"}
    trackers = Trackers(context.spec.track)
    trackers.start(run.id, run.path, to_dict(context.spec), context.trainer.progress.history)
    try:
        with training_in_words(trainer):
            with interruption.listening():
                trainer.fit(ProgressFile(run, callback), RunCheckpointer(run, context, interruption, trackers))
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
    """Turn whatever ends the training, or the evaluation after it, into words."""
    return failures_in_words(
        lambda: trainer.place,
        smaller=smaller_batches(trainer.spec.batch_size),
        remedy=f"{_TRACEBACK} in the run's folder shows where; `tekapctl resume RUN` goes on when that is mended.",
        spared=(),
    )


def with_checkpoint(error: TekapctlError, run: Run) -> TekapctlError:
    """The error that ended a run, with what is kept of the run where it can go on."""
    if not isinstance(error, DivergedError | PeerLostError | UnexpectedError | OutOfMemoryError | UsageError):
        return error
    where = checkpoint.described(run.checkpoints)
    told = TekapctlError(f"{error.problem[:-1]}; {where}.", error.remedy.replace("RUN", run.id))
    told.__cause__ = error.__cause__
    return told


def fail(run: Run, error: TekapctlError, trackers: Trackers) -> dict[str, Any]:
    """Write that a run has failed, and why; returns its summary."""
    failed = {"run": run.id, "status": "failed", "error": str(error)}
    with suppress(TekapctlError):  # what went wrong first is what counts
        run.write_summary(failed)
        if error.__cause__ is not None:
            told = "".join(traceback.format_exception(error.__cause__))
            run.write_text(_TRACEBACK, told.encode(errors="replace").decode())
    trackers.finish(failed)
    return failed


class RunCheckpointer:
    """Writes a run's training state, metrics and best weights; stops it where a signal asks for that.

    Of several processes only the leader writes. All ask each other now and then whether one was told to stop, so that
    they stop after the same step.

    Args:
        run: The run.
        context: What it trains with.
        interruption: Whether it is to stop.
        trackers: Are told each epoch's metrics; None where this process does not lead.
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
        """Write the training state every so many minutes, and before the run is stopped."""
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
        """Write all that the epoch brought."""
        trainer = self.context.trainer
        with self.comm.raise_together():
            if is_best and self.comm.is_main:
                weights, metadata = trainer.network.state_dict(), _metadata(self.context, metrics)
                self.run.write_weights("best.safetensors", encode_weights(weights, metadata))
        self._write_state()
        with self.comm.raise_together():
            if self.trackers is not None:
                self.run.append_metrics(metrics)
                self.trackers.log(metrics)
        (signal,) = self.comm.all_reduce_max((self.interruption.signal or 0,))
        if signal and trainer.progress.epoch < trainer.spec.total_epochs:
            raise self._stopped(f"after epoch {trainer.progress.epoch}", signal)

    def _next_pause(self) -> int:
        """Steps until the processes ask each other again; the leader's clock decides."""
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


def finish(run: Run, context: RunContext) -> dict[str, Any]:
    """Write the last weights, measure them, and write the summary."""
    spec, trainer = context.spec, context.trainer
    progress = trainer.progress
    weights = encode_weights(trainer.network.state_dict(), _metadata(context, progress.last))
    run.write_weights(run.weights.name, weights)
    evaluation = evaluate(
        trainer.network,
        context.splits.test,
        device=trainer.device,
        precision=trainer.precision,
        teacher_logits=context.teacher_logits,
        batch_size=trainer.test_batches.batch_size,
    )
    summary: dict[str, Any] = {
        "run": run.id,
        "status": "finished",
        "kind": "student" if isinstance(spec, StudentSpec) else "teacher",
        "model": spec.network,
        "model_args": json.dumps(spec.model_args),
        "dataset": spec.data.name,
        "train_images": len(context.splits.train),
        "seed": spec.seed,
        "epochs": spec.epochs,
        "last_top1": progress.last["test_top1"],
        "best_top1": progress.best_top1,
        "best_epoch": progress.best_epoch,
        "seconds": progress.seconds,
        "evaluation": evaluation.to_dict(),
    }
    if isinstance(spec, StudentSpec) and context.teacher:
        summary["method"] = spec.method.name
        summary["teacher"] = {
            "model": context.teacher.model,
            "reference": context.teacher.reference.name,
            "top1": context.teacher_top1,
            "digest": context.teacher.digest,
            "ensemble": list(spec.ensemble),
        }
    run.write_summary(summary)
    return summary


def label(context: RunContext) -> str:
    """What a run is, for its id."""
    spec = context.spec
    networks = [spec.network] if context.teacher is None else [context.teacher.model, spec.network]
    name = [spec.name] if spec.name else []
    return "-".join([*name, *words(spec), *networks, spec.data.name, f"s{spec.seed}"])


def words(spec: RunSpec) -> list[str]:
    """What is done in a run: `teacher`, or a method with what is added to it."""
    if not isinstance(spec, StudentSpec):
        return ["teacher"]
    added = ["tekap"] if spec.augmented else ["angular"] if spec.angular.views else []
    ensemble = [f"ensemble{1 + len(spec.ensemble)}"] if spec.ensemble else []
    return [*added, spec.method.name, *ensemble]


def _metadata(context: RunContext, metrics: Metrics) -> dict[str, str]:
    spec, train = context.spec, context.splits.train
    channels, height, width = train.image_shape
    network = context.trainer.network
    normalization = network.normalization
    assert normalization is not None
    model, arguments = network.recipe(spec.network, spec.model_args)
    return {
        "format": "tekapctl weights 1",
        "kind": "student" if isinstance(spec, StudentSpec) else "teacher",
        "model": model,
        "model_args": json.dumps(arguments),
        "dataset": spec.data.name,
        "num_classes": str(len(train.classes)),
        "in_channels": str(channels),
        "image_size": f"{height}x{width}",
        "classes": json.dumps(train.classes),
        "mean": json.dumps(normalization.mean),
        "std": json.dumps(normalization.std),
        "middle": str(train.center_crop),
        "epoch": str(metrics["epoch"]),
        "top1": f"{metrics['test_top1']:.6f}",
        **({"data_settings": json.dumps(spec.data.shared)} if spec.data.shared else {}),
        **({"data_fingerprint": spec.data.fingerprint} if spec.data.fingerprint else {}),
    }


def environment(device: torch.device, comm: Communicator = SINGLE_PROCESS) -> dict[str, Any]:
    """What a run ran on: versions, device, processes, and the commit of the folder it was started in."""
    return {
        "tekapctl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": describe(device),
        "processes": comm.world_size,
        "commit": _commit(),
    }


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False, cwd=Path.cwd()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
