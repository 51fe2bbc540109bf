"""Evaluate a trained network, also against its teacher."""

import logging
from dataclasses import asdict
from typing import Any

import torch

from tekapctl import data
from tekapctl.commands.mistakes import worst_of
from tekapctl.commands.robustness import Request, Transfer, evaluate_shifts, linear_probe
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.device import place, resolve_device, resolve_precision, set_float32_precision
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.external import Arguments
from tekapctl.spec import StudentSpec, load_of_run
from tekapctl.store.home import Home
from tekapctl.train import evaluation, references, trained
from tekapctl.train.trained import Trained

logger = logging.getLogger(__name__)


@failures_in_words("the evaluation")
def evaluate(
    home: Home,
    name: str,
    *,
    model: str | None = None,
    model_args: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 500,
    robustness: Request | None = None,
    limit: int | None = None,
    with_teacher: bool = True,
    worst: int = 0,
) -> dict[str, Any]:
    """Evaluate a trained network on a dataset's test images.

    Args:
        home: Holds runs, fetched teachers and datasets.
        name: A run, a checkpoint file, or a fetched teacher.
        model: Architecture of a checkpoint file that states none.
        model_args: Keyword arguments of an external model.
        best: Use the weights of a run's best epoch instead of its last.
        dataset: Name of the dataset; None for the one it was trained on.
        folder: Folder with the dataset's files.
        device: Device to compute on.
        precision: Precision of the forward passes.
        batch_size: Images per forward pass.
        robustness: Robustness measurements to make as well.
        limit: Number of test images for these, evenly spread over the set; None for all.
        with_teacher: Compare a student with its teacher.
        worst: Number of the most confident mistakes to return.

    Returns:
        Plain values. `evaluation` has the fields of `Evaluation`, `robustness` is a list of those of `Robustness`,
        `transfer` of those of `Transfer`; `mistakes` are objects, most confident first.

    Raises:
        UsageError: The network, its data or the device is unavailable, or they do not fit together.
    """
    request = robustness or Request()
    shifts = request.shifts()
    student, spec, splits = load_network(
        home, name, model=model, model_args=model_args, best=best, dataset=dataset, folder=folder
    )
    target = resolve_device(device)
    set_float32_precision(precision, target)
    teacher = _teacher_of(home, student, spec) if with_teacher else None
    if teacher is not None and not trained.fit_to(teacher, splits.test, spec.described, needs_classes=False):
        logger.info(f"the teacher {teacher.model} has other classes, so it is not compared with")
        teacher = None
    if teacher is not None:
        place(teacher.network, target)
    place(student.network, target)
    teacher_logits = None
    if teacher is not None:
        batches = Batches(splits.test, batch_size, device=target)
        teacher_precision = resolve_precision(precision, target, teacher.network, trains=False)
        teacher_logits, _ = evaluation.predict(teacher.network, batches, teacher_precision)
    used = resolve_precision(precision, target, student.network, trains=False)
    result = evaluation.evaluate(
        student.network,
        splits.test,
        device=target,
        precision=used,
        teacher_logits=teacher_logits,
        batch_size=batch_size,
    )
    shifted = evaluate_shifts(
        student.network,
        splits.test if limit is None else splits.test.subsample(limit),
        shifts,
        device=target,
        teacher=None if teacher is None else teacher.network,
        batch_size=batch_size,
    )
    probed = [_probe(home, probe, student, teacher, splits.test, target) for probe in request.probes]
    return {
        "reference": student.reference.name,
        "source": student.reference.described,
        "model": student.model,
        "dataset": spec.described,
        "precision": str(used).removeprefix("torch."),
        "teacher": f"{teacher.model} from {teacher.reference.described}" if teacher else None,
        "evaluation": asdict(result),
        "robustness": [asdict(each) for each in shifted],
        "transfer": [asdict(each) for each in probed],
        "mistakes": worst_of(student.network, splits.test, worst, target) if worst else [],
    }


def load_network(
    home: Home,
    name: str,
    *,
    model: str | None = None,
    model_args: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
) -> tuple[Trained, data.DataSpec, data.Splits]:
    """A trained network with its dataset and the images of that; the arguments are those of `evaluate`.

    Raises:
        UsageError: The network or its data is unavailable, or they do not fit together.
    """
    reference = references.find(home, name, data=None if dataset is None else references.named_data(dataset, folder))
    if best:
        reference = references.weights_of(reference, "best")
    found = trained.load(reference, model=model, arguments=model_args)
    spec = trained.data_of(found, dataset, folder)
    seed = load_of_run(reference.run.path).seed if reference.run else 0  # selects the run's share of training images
    splits = data.load(spec, home.datasets, seed=seed, in_channels=found.network.in_channels)
    trained.fit_to(found, splits.test, spec.described)
    trained.warn_if_changed(found, spec, home.datasets)
    return found, spec, splits


def _probe(
    home: Home, name: str, student: Trained, teacher: Trained | None, images: ImageSet, device: torch.device
) -> Transfer:
    """Train linear probes on another dataset, resized to the images that the network was trained on."""
    logger.info(f"linear probe on {name}")
    spec, size = data.data_spec({"name": name}), images.image_shape[1:]

    def probe(one: Trained) -> tuple[float, float]:
        splits = data.load(spec, home.datasets, seed=0, in_channels=one.network.in_channels)
        return linear_probe(one.network, splits, device=device, size=size)

    top1, weight_decay = probe(student)
    return Transfer(spec.name, top1, weight_decay, None if teacher is None else probe(teacher)[0])


def _teacher_of(home: Home, student: Trained, data_spec: data.DataSpec) -> Trained | None:
    """The teacher of a student's run, if it still exists and has not changed."""
    run = student.reference.run
    spec = load_of_run(run.path) if run is not None else None
    if not isinstance(spec, StudentSpec) or spec.data.name != data_spec.name:
        return None
    try:
        if spec.ensemble:
            logger.info("comparing with the first teacher only")
        teacher = trained.load(
            references.find(home, spec.teacher, data=data_spec),
            model=spec.teacher_model,
            arguments=spec.teacher_args,
        )
    except UsageError as error:
        logger.info(f"not compared with the teacher: {error.problem}")
        return None
    if teacher.digest != spec.teacher_digest:
        logger.info(f"not compared with the teacher: the weights of {spec.teacher} have changed since the training")
        return None
    return teacher
