"""Logs what a run trains, and warns of networks that are hardly better than guessing."""

import logging
from math import sqrt

from tekapctl.device import describe
from tekapctl.models.network import parameters
from tekapctl.spec import StudentSpec
from tekapctl.train.build import RunContext

logger = logging.getLogger(__name__)


def log_run(context: RunContext) -> None:
    """Log the dataset, networks, method, loss and training settings of a run."""
    spec, train, test = context.spec, context.splits.train, context.splits.test
    channels, height, width = train.image_shape
    val = context.splits.val
    validation = "" if val is None else f", {len(val):,} validation"
    lines = [
        f"dataset: {spec.data.described}, {len(train):,} training{validation} and {len(test):,} test images of "
        f"{len(train.classes):,} classes, {height}x{width} pixels, {channels} channel{'s' if channels > 1 else ''}; "
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
    if not isinstance(spec, StudentSpec) and spec.optimizer.name == "dot":
        logger.warning("the optimizer dot is meant for distillation: without a teacher it is SGD with less momentum")
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
    """Warn if a network is not clearly better than always guessing the most frequent class.

    Args:
        who: `teacher`, `student` or `network`.
        top1: Its accuracy on the test images, as a fraction.
        context: The run.
    """
    test = context.splits.test
    chance = test.labels.bincount().max().item() / len(test)
    # Within three standard errors of always naming the most frequent class.
    if top1 > chance + 3 * sqrt(chance * (1 - chance) / len(test)):
        return
    logger.warning(
        f"the {who} is hardly better than guessing: top-1 {100 * top1:.2f} %, and {100 * chance:.2f} % by always "
        "guessing the most frequent class"
    )


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as `2 epochs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _method(spec: StudentSpec) -> str:
    tekap, levels = spec.canonical.tekap, []
    if tekap.logit.teachers:
        levels.append(f"{_augmented(tekap.logit.teachers)} at the logit level")
    if tekap.feature.teachers:
        levels.append(f"{_augmented(tekap.feature.teachers)} at the feature level")
    if spec.angular.views:
        levels.append(f"{spec.angular.views} learned views (Angular-KD)")
    return f"{spec.method.name}, {' and '.join(levels) or 'without TeKAP'}"


def _augmented(count: int) -> str:
    return f"{count} augmented teacher{'s' if count > 1 else ''}"


def _loss(spec: StudentSpec) -> str:
    parts = [
        (spec.gamma, "cross-entropy"),
        (spec.alpha, f"KD (temperature {spec.temperature:g})"),
        (spec.beta, spec.method.name),
    ]
    sums = " + ".join(f"{weight:g} {name}" for weight, name in parts if weight)
    return sums + (", on standardized logits" if spec.standardize_logits else "")
