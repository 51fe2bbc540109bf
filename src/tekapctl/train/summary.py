"""What a run tells and leaves: lines when it starts, its weights with their metadata, its summary, what it ran on."""

import json
import logging
import platform
import subprocess
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tekapctl import __version__
from tekapctl.device import describe, describe_passes, exact_float32
from tekapctl.errors import UsageError, counted
from tekapctl.models import Network
from tekapctl.models.network import parameters
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.metrics import top1_of
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.store.weights import encode_weights, read_weights
from tekapctl.train.build import RunContext
from tekapctl.train.evaluation import Evaluation, evaluate
from tekapctl.train.step import Metrics
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)


def finish(run: Run, context: RunContext) -> dict[str, Any]:
    """Write the run's weights, measure them, and write the summary.

    All results are in float32, as `tekapctl evaluate` measures them.
    """
    spec, trainer = context.spec, context.trainer
    progress, network = trainer.progress, trainer.averaged
    best, problem = _best_weights(run, context)
    kept = progress.last
    if spec.patience and best is not None:
        network.load_state_dict(best)
        kept = progress.history[progress.best_epoch - 1]
    elif spec.patience:
        logger.warning(
            f"the weights of epoch {progress.best_epoch}, the best one, are not there ({problem}); the run keeps those "
            "of its last epoch"
        )
    if trainer.average is not None:
        metadata = weights_metadata(context, progress.last) | {"top1": f"{progress.last['raw_top1']:.6f}"}
        run.write_weights(WEIGHTS["raw"], encode_weights(trainer.network.state_dict(), metadata))
    run.write_weights(run.weights.name, encode_weights(network.state_dict(), weights_metadata(context, kept)))
    evaluation = _on_test_images(context, network)
    best_top1 = evaluation.top1
    if best is not None and kept["epoch"] != progress.best_epoch:
        own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(best)  # not into a copy: networks of several processes cannot be copied
        best_top1 = _on_test_images(context, network).top1
        network.load_state_dict(own)
    elif best is None and not spec.data.val_fraction:
        best_top1 = progress.best_top1
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
        "last_top1": evaluation.top1,
        "best_top1": best_top1,
        "best_epoch": progress.best_epoch,
        "seconds": progress.seconds,
        "evaluation": asdict(evaluation),
    }
    if spec.patience:
        summary |= {"epochs_trained": progress.epoch, "weights_epoch": kept["epoch"]}
    if spec.continues is not None:
        summary["continues"] = spec.continues.run
    if spec.data.val_fraction:
        summary |= {"last_val_top1": kept["val_top1"], "best_val_top1": progress.best_top1}
    if trainer.average is not None:
        summary["raw_top1"] = _on_test_images(context, trainer.network).top1
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


def _best_weights(run: Run, context: RunContext) -> tuple[dict[str, Tensor] | None, str]:
    """The weights of the best epoch; None and the reason where a run that was killed has lost them."""
    path = run.path / WEIGHTS["best"]
    try:
        run.check_weights(path)
        state, metadata = read_weights(path)
    except (UsageError, OSError) as error:
        return None, str(error)
    is_there = metadata.get("epoch") == str(context.trainer.progress.best_epoch)
    return state if is_there else None, f"they are of epoch {metadata.get('epoch')}"


def _on_test_images(context: RunContext, network: Network) -> Evaluation:
    trainer = context.trainer
    with exact_float32(trainer.device, context.spec.precision):
        return evaluate(
            network,
            context.splits.test,
            device=trainer.device,
            teacher_logits=context.teacher_logits,
            batch_size=trainer.eval_batches.batch_size,
        )


def label(context: RunContext) -> str:
    """What a run is, for its id."""
    spec = context.spec
    networks = [spec.network] if context.teacher is None else [context.teacher.model, spec.network]
    name = [spec.name] if spec.name else []
    longer = [f"e{spec.epochs}"] if spec.continues is not None else []
    return "-".join([*name, *words(spec), *networks, spec.data.name, f"s{spec.seed}", *longer])


def words(spec: RunSpec) -> list[str]:
    """What is done in a run: `teacher`, or a method with what is added to it."""
    if not isinstance(spec, StudentSpec):
        return ["teacher"]
    added = ["tekap"] if spec.augmented else ["angular"] if spec.angular.views else []
    ensemble = [f"ensemble{1 + len(spec.ensemble)}"] if spec.ensemble else []
    return [*added, spec.method.name, *ensemble]


def weights_metadata(context: RunContext, metrics: Metrics) -> dict[str, str]:
    """The metadata of a weights file: the network, its classes and images, and how good it is."""
    spec, train = context.spec, context.splits.train
    channels, height, width = context.splits.test.image_shape
    _, *train_size = train.image_shape
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
        **({} if train_size == [height, width] else {"train_image_size": f"{train_size[0]}x{train_size[1]}"}),
        "classes": json.dumps(train.classes),
        "mean": json.dumps(normalization.mean),
        "std": json.dumps(normalization.std),
        "middle": str(train.center_crop),
        **({"grey": "true"} if context.splits.test.is_grey and channels > 1 else {}),
        "epoch": str(metrics["epoch"]),
        "top1": f"{top1_of(metrics):.6f}",
        "top1_on": context.trainer.split,
        **({"data_settings": json.dumps(spec.data.shared)} if spec.data.shared else {}),
        **({"data_fingerprint": spec.data.fingerprint} if spec.data.fingerprint else {}),
    }


def environment(trainer: Trainer) -> dict[str, Any]:
    """What a run ran on: versions, device, precision, processes, and the commit of the folder it was started in."""
    return {
        "tekapctl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": describe(trainer.device),
        "precision": describe_passes(trainer.device, trainer.precision),
        "processes": trainer.comm.world_size,
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


def log_run(context: RunContext) -> None:
    """Log the dataset, networks, method, loss and training settings of a run."""
    spec, train, test = context.spec, context.splits.train, context.splits.test
    channels, height, width = train.image_shape
    _, *test_size = test.image_shape
    tested = "" if test_size == [height, width] else f" ({test_size[0]}x{test_size[1]} in tests)"
    val = context.splits.val
    validation = "" if val is None else f", {len(val):,} validation"
    lines = [
        f"dataset: {spec.data.described}, {len(train):,} training{validation} and {len(test):,} test images of "
        f"{len(train.classes):,} classes, {height}x{width} pixels{tested}, {counted(channels, 'channel')}; "
        f"{context.splits.split}"
    ]
    if isinstance(spec, StudentSpec) and context.teacher_top1 is not None:
        who = "teacher" if len(context.teachers) == 1 else f"{len(context.teachers)} teachers together"
        lines.append(f"{who}: top-1 {100 * context.teacher_top1:.2f} % on the test images")
    role = "student" if isinstance(spec, StudentSpec) else "network"
    lines.append(f"{role}: {spec.network}, {parameters(context.trainer.network):,} parameters")
    if isinstance(spec, StudentSpec):
        lines += [f"method: {_method(spec)}", f"loss: {_loss(spec)}"]
    if len(train) < spec.batch_size:
        logger.warning(f"a batch of {spec.batch_size:,} is larger than the training set: an epoch is a single step")
    alone = spec.optimizer.without_teacher
    if not isinstance(spec, StudentSpec) and alone is not None:
        name = spec.optimizer.name
        logger.warning(f"the optimizer {name} is meant for distillation: without a teacher it is {alone}")
    precision = str(context.trainer.precision).removeprefix("torch.")
    lines.append(
        f"training: {counted(spec.total_epochs, 'epoch')}, batch size {spec.batch_size:,}, learning rate "
        f"{spec.optimizer.learning_rate:g}, seed {spec.seed}, {describe(context.trainer.device)}, {precision}"
    )
    for line in lines:
        logger.info(line)
    if context.teacher_top1 is not None:
        warn_if_chance("teacher", context.teacher_top1, context)


def warn_if_chance(who: str, top1: float, context: RunContext) -> None:
    """Warn if a network's accuracy on the test images is not clearly better than that of always guessing one class."""
    test = context.splits.test
    chance = test.labels.bincount().max().item() / len(test)
    # Within three standard errors of always naming the most frequent class.
    if top1 > chance + 3 * sqrt(chance * (1 - chance) / len(test)):
        return
    logger.warning(
        f"the {who} is hardly better than guessing: top-1 {100 * top1:.2f} %, and {100 * chance:.2f} % by always "
        "guessing the most frequent class"
    )


def _method(spec: StudentSpec) -> str:
    tekap, levels = spec.canonical.tekap, []
    if tekap.logit.teachers:
        levels.append(f"{counted(tekap.logit.teachers, 'augmented teacher')} at the logit level")
    if tekap.feature.teachers:
        levels.append(f"{counted(tekap.feature.teachers, 'augmented teacher')} at the feature level")
    if spec.angular.views:
        levels.append(f"{spec.angular.views} learned views (Angular-KD)")
    return f"{spec.method.name}, {' and '.join(levels) or 'without TeKAP'}"


def _loss(spec: StudentSpec) -> str:
    parts = [
        (spec.gamma, "cross-entropy"),
        (spec.alpha, f"KD (temperature {spec.temperature:g})"),
        (spec.beta, spec.method.name),
    ]
    sums = " + ".join(f"{weight:g} {name}" for weight, name in parts if weight)
    return sums + (", on standardized logits" if spec.standardize_logits else "")
