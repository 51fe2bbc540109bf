"""Carries out a run: from its spec to its summary."""

import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tekapctl import __version__, data, models, trained
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import Splits
from tekapctl.engine import checkpoint
from tekapctl.engine.device import describe, place, resolve_device, resolve_precision
from tekapctl.engine.objective import Classification, Distillation, Objective, Teacher
from tekapctl.engine.teaching import CachedTeacher, LiveTeacher
from tekapctl.engine.trainer import Listener, Metrics, Trainer
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.evaluation import Evaluation, evaluate
from tekapctl.methods import Pair
from tekapctl.models import Network
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec, dumps, load
from tekapctl.store.home import Home
from tekapctl.store.runs import Run, Runs
from tekapctl.store.weights import save_weights
from tekapctl.tekap import SeededNoise, Tekap
from tekapctl.trained import Trained

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """Everything that a run trains with, built and checked before anything is written.

    Attributes:
        spec: The spec, with the teacher pinned to the weights that were found.
        splits: The image sets, in the channels that the networks take.
        teacher: The teacher of a student's run, else None.
        teacher_evaluation: How good the teacher is on the test set.
        trainer: The trainer, with the learner and its objective.
    """

    spec: RunSpec
    splits: Splits
    teacher: Trained | None
    teacher_evaluation: Evaluation | None
    trainer: Trainer


def prepare(spec: TeacherSpec | StudentSpec, home: Home, say: Say) -> Setting:
    """Load the data and the teacher, check that all fits together, and build the learner.

    Raises:
        UsageError: Data, teacher or device are not to be had, or do not fit.
    """
    device = resolve_device(spec.device)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # equal specs give equal numbers
    teacher: Trained | None = None
    of_teacher: Evaluation | None = None
    asked = torch.float32
    if isinstance(spec, StudentSpec):
        teacher = trained.load(trained.find(home, spec.teacher, dataset=spec.data.name))
        if spec.teacher_digest not in (None, teacher.digest):
            raise UsageError(
                f"The weights of {teacher.reference.described} are not those that the spec names by teacher_digest.",
                "Name the teacher by the run or file that has them, or remove teacher_digest from the spec.",
            )
        say(f"teacher: {teacher.model} from {teacher.reference.described}")
        spec = spec.model_copy(update={"teacher": teacher.reference.name, "teacher_digest": teacher.digest})
    channels = teacher.network.in_channels if teacher else None
    splits = data.load(spec.data, home.datasets, seed=spec.seed, in_channels=channels)
    if teacher is not None:
        trained.check_classes(teacher, splits.test.classes, spec.data.name)
        place(teacher.network, device)
        asked = resolve_precision(spec.precision, device, teacher.network, trains=False)
        of_teacher = evaluate(teacher.network, splits.test, device=device, precision=asked)
        say(f"teacher: top-1 {100 * of_teacher.top1:.2f} on the {of_teacher.images:,} test images of {spec.data.name}")
    learner = build_learner(spec, splits, device)
    train = training_batches(spec, splits, device)
    test = Batches(splits.test, 500, device=device, padding=0, flip=False, seed=spec.seed, channels_last=True)
    objective: Objective = Classification()
    if isinstance(spec, StudentSpec) and teacher is not None:
        objective = build_distillation(spec, teacher, learner, train, asked, home.knowledge, say)
    place(objective, device)
    precision = resolve_precision(spec.precision, device, learner, trains=True)
    trainer = Trainer(spec, learner, objective, train, test, precision)
    return Setting(spec, splits, teacher, of_teacher, trainer)


def training_batches(spec: RunSpec, splits: Splits, device: torch.device) -> Batches:
    """The training set in the batches of a run."""
    return Batches(
        splits.train,
        spec.batch_size,
        device=device,
        padding=spec.data.padding,
        flip=spec.data.flip,
        seed=spec.seed,
        channels_last=True,
    )


def build_learner(spec: RunSpec, splits: Splits, device: torch.device) -> Network:
    """The network that learns, its first weights drawn from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        network = models.build(spec.network, len(splits.train.classes), splits.train.image_shape[0])
    place(network, device)
    return network


def build_distillation(
    spec: StudentSpec,
    teacher: Trained,
    learner: Network,
    train: Batches,
    precision: torch.dtype,
    knowledge: Path,
    say: Say,
) -> Distillation:
    """The objective of a student's run.

    Args:
        spec: The run's spec.
        teacher: The teacher, on its device.
        learner: The student.
        train: The training batches.
        precision: Precision of the teacher's passes.
        knowledge: Where cached knowledge is kept.
        say: Is told of the cache.
    """
    learner.eval()  # the probe must not touch the student's running statistics
    with torch.no_grad():
        probe = next(iter(train.in_order())).images[:2]
        pair = Pair(learner.knowledge(probe), teacher.network.knowledge(probe), train.image_set.labels, spec.seed)
    learner.train()
    method = spec.method.build(pair) if spec.beta else None
    needs_stages = method is not None and method.needs_stages
    asked: Teacher
    asked = live = LiveTeacher(teacher.network, train, precision, stages=needs_stages, compiled=spec.compile)
    if spec.cache_teacher and needs_stages:
        say(f"the method {spec.method.name} reads feature maps, which are not cached: the teacher stays live")
    elif spec.cache_teacher:
        asked = cached = CachedTeacher(live, train, knowledge, teacher, spec.data.name, say)
        say(f"cached knowledge: {cached.store.described}")
    return Distillation(
        asked,
        Tekap(spec.tekap, SeededNoise(spec.tekap, spec.seed)),
        method,
        gamma=spec.gamma,
        alpha=spec.alpha,
        beta=spec.beta,
        temperature=spec.temperature,
    )


def execute(spec: TeacherSpec | StudentSpec, home: Home, listener: Listener, say: Say) -> dict[str, Any]:
    """Carry out a run and return its summary, which is also in the run's folder.

    Raises:
        UsageError: The spec asks for what is not to be had; nothing was written then.
        TekapctlError: The run failed; its folder holds what it reached.
    """
    setting = prepare(spec, home, say)
    run = Runs(home.runs).create(label(setting))
    say(f"run: {run.id}")
    with run.lock():
        run.write_text("spec.toml", dumps(setting.spec))
        run.write_text("environment.json", json.dumps(environment(setting.trainer.device), indent=2) + "\n")
        return _train(run, setting, listener)


def resume(reference: str, home: Home, listener: Listener, say: Say) -> dict[str, Any]:
    """Go on with a run that was stopped, from its newest whole checkpoint, and return its summary.

    Args:
        reference: The run's id, a unique prefix of it, or `latest`.
        home: Where it is.
        listener: Is told how it goes on.
        say: Is told what is going on.

    Raises:
        UsageError: There is no such run, it is finished, or its data or teacher are gone.
        TekapctlError: It is running, or it failed.
    """
    run = Runs(home.runs).find(reference)
    if run.status == "finished":
        raise UsageError(f"The run {run.id} is finished.", f"See it with `tekapctl runs show {run.id}`.")
    with run.lock():
        setting = prepare(load(run.path / "spec.toml"), home, say)
        state, damaged = checkpoint.newest(run.checkpoints, setting.trainer.device)
        for path in damaged:
            say(f"the checkpoint {path.name} is damaged and was passed over")
        if state is not None:
            setting.trainer.restore(state)
        done = setting.trainer.progress.epoch
        say(f"run: {run.id}, after epoch {done} of {setting.spec.epochs}")
        # What was measured after the checkpoint will be measured again.
        run.keep_metrics(done)
        (run.path / "summary.json").unlink(missing_ok=True)
        return _train(run, setting, listener)


def _train(run: Run, setting: Setting, listener: Listener) -> dict[str, Any]:
    try:
        setting.trainer.fit(listener, lambda metrics, best: _keep(run, setting, metrics, best))
    except TekapctlError as error:
        run.write_summary({"run": run.id, "status": "failed", "error": str(error)})
        raise
    return finish(run, setting)


def _keep(run: Run, setting: Setting, metrics: Metrics, is_best: bool) -> None:
    trainer = setting.trainer
    if is_best:
        save_weights(run.path / "best.safetensors", trainer.network.state_dict(), _metadata(setting, metrics))
    checkpoint.save(run.checkpoints, trainer.progress.epoch, trainer.state())
    run.append_metrics(metrics)


def finish(run: Run, setting: Setting) -> dict[str, Any]:
    """Write the last weights, measure them, and write the summary."""
    spec, trainer = setting.spec, setting.trainer
    progress = trainer.progress
    save_weights(run.weights, trainer.network.state_dict(), _metadata(setting, progress.last))
    evaluation = evaluate(
        trainer.network,
        setting.splits.test,
        device=trainer.device,
        precision=trainer.precision,
        teacher=setting.teacher.network if setting.teacher else None,
    )
    summary: dict[str, Any] = {
        "run": run.id,
        "status": "finished",
        "kind": "student" if isinstance(spec, StudentSpec) else "teacher",
        "model": spec.network,
        "dataset": spec.data.name,
        "train_images": len(setting.splits.train),
        "seed": spec.seed,
        "epochs": spec.epochs,
        "last_top1": progress.last["test_top1"],
        "best_top1": progress.best_top1,
        "best_epoch": progress.best_epoch,
        "seconds": progress.seconds,
        "evaluation": evaluation.to_dict(),
    }
    if isinstance(spec, StudentSpec) and setting.teacher and setting.teacher_evaluation:
        summary["method"] = spec.method.name
        summary["teacher"] = {
            "model": setting.teacher.model,
            "reference": setting.teacher.reference.name,
            "top1": setting.teacher_evaluation.top1,
            "digest": setting.teacher.digest,
        }
    run.write_summary(summary)
    return summary


def label(setting: Setting) -> str:
    """What a run is, in the words of its id."""
    spec = setting.spec
    words = [spec.name] if spec.name else []
    if isinstance(spec, StudentSpec) and setting.teacher:
        teachers = spec.tekap.logit.teachers if spec.alpha else 0
        teachers += spec.tekap.feature.teachers if spec.beta else 0
        words += ["tekap"] if teachers else []
        words += [spec.method.name, setting.teacher.model, spec.student]
    else:
        words += ["teacher", spec.network]
    return "-".join([*words, spec.data.name, f"s{spec.seed}"])


def _metadata(setting: Setting, metrics: Metrics) -> dict[str, str]:
    spec, train = setting.spec, setting.splits.train
    channels, height, width = train.image_shape
    return {
        "format": "tekapctl weights 1",
        "kind": "student" if isinstance(spec, StudentSpec) else "teacher",
        "model": spec.network,
        "dataset": spec.data.name,
        "num_classes": str(len(train.classes)),
        "in_channels": str(channels),
        "image_size": f"{height}x{width}",
        "classes": json.dumps(train.classes),
        "mean": json.dumps(train.mean),
        "std": json.dumps(train.std),
        "epoch": str(metrics["epoch"]),
        "top1": f"{metrics['test_top1']:.6f}",
    }


def environment(device: torch.device) -> dict[str, Any]:
    """What a run ran on: versions, device, and the commit of the folder it was started in."""
    return {
        "tekapctl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": describe(device),
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
