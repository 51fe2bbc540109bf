"""What a finished run leaves: its weights with their metadata, its summary, and what it ran on."""

import copy
import json
import logging
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from tekapctl import __version__
from tekapctl.device import describe
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.metrics import top1_of
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.store.weights import encode_weights, read_weights
from tekapctl.train.build import RunContext
from tekapctl.train.evaluation import Evaluation, evaluate
from tekapctl.train.step import Metrics

logger = logging.getLogger(__name__)


def finish(run: Run, context: RunContext) -> dict[str, Any]:
    """Write the last weights, measure them, and write the summary."""
    spec, trainer = context.spec, context.trainer
    progress = trainer.progress
    if trainer.average is not None:
        ema_top1 = _on_test_images(context, trainer.average.network).top1
        metadata = weights_metadata(context, progress.last) | {"top1": f"{ema_top1:.6f}", "top1_on": "test"}
        run.write_weights(WEIGHTS["ema"], encode_weights(trainer.average.network.state_dict(), metadata))
    kept = _keep_best(run, context) if spec.patience else progress.last
    run.write_weights(run.weights.name, encode_weights(trainer.network.state_dict(), weights_metadata(context, kept)))
    evaluation = _on_test_images(context, trainer.network)
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
        "last_top1": progress.last.get("test_top1", evaluation.top1),
        "best_top1": progress.best_top1,
        "best_epoch": progress.best_epoch,
        "seconds": progress.seconds,
        "evaluation": evaluation.to_dict(),
    }
    if spec.patience:
        summary |= {"epochs_trained": progress.epoch, "weights_epoch": kept["epoch"]}
    if spec.continues is not None:
        summary["continues"] = spec.continues.run
    if spec.data.val_fraction:
        summary |= {"last_val_top1": kept["val_top1"], "best_val_top1": progress.best_top1}
        if spec.patience:
            summary["best_top1"] = evaluation.top1
        elif progress.best_epoch:
            best = copy.deepcopy(trainer.network)
            best.load_state_dict(read_weights(run.path / WEIGHTS["best"])[0])
            summary["best_top1"] = _on_test_images(context, best).top1
    if trainer.average is not None:
        summary["ema_top1"] = ema_top1
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


def _keep_best(run: Run, context: RunContext) -> Metrics:
    """Load the best epoch's weights into the network; returns the metrics of the epoch whose weights it has."""
    progress, path = context.trainer.progress, run.path / WEIGHTS["best"]
    try:
        run.check_weights(path)
        state, metadata = read_weights(path)
    except (UsageError, OSError) as error:
        state, metadata, problem = {}, {}, str(error)
    else:
        problem = f"they are of epoch {metadata.get('epoch')}"
    if metadata.get("epoch") != str(progress.best_epoch):
        # A run that was killed may have lost the epoch that wrote them.
        logger.warning(
            f"the weights of epoch {progress.best_epoch}, the best one, are not there ({problem}); the run keeps those "
            "of its last epoch"
        )
        return progress.last
    context.trainer.network.load_state_dict(state)
    return progress.history[progress.best_epoch - 1]


def _on_test_images(context: RunContext, network: Network) -> Evaluation:
    trainer = context.trainer
    return evaluate(
        network,
        context.splits.test,
        device=trainer.device,
        precision=trainer.precision,
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
        **({"grey": "true"} if context.splits.test.is_grey and channels > 1 else {}),
        "epoch": str(metrics["epoch"]),
        "top1": f"{top1_of(metrics):.6f}",
        "top1_on": context.trainer.split,
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
