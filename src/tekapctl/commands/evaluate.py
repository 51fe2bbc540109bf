"""Evaluation of a trained network by name: what `tekapctl evaluate` does."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tekapctl import data
from tekapctl.commands.robustness.measure import Request, measure_shifts
from tekapctl.commands.robustness.transfer import Transfer, linear_probe
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet
from tekapctl.device import place, resolve_device, resolve_precision, set_float32_precision
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.external import Arguments
from tekapctl.spec import StudentSpec, load_of_run
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.evaluation import evaluate, predict
from tekapctl.train.trained import Reference, Trained

logger = logging.getLogger(__name__)

DEFAULT_DATASET = "cifar100"
"""What the published checkpoints, which do not say, were trained on."""


@failures_in_words("measuring the network")
def measure(
    home: Home,
    name: str,
    *,
    model: str | None = None,
    arguments: Arguments | None = None,
    best: bool = False,
    dataset: str | None = None,
    folder: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    batch_size: int = 500,
    robustness: Request | None = None,
    limit: int | None = None,
    beside_teacher: bool = True,
) -> dict[str, Any]:
    """Measure a trained network on a data set's test images.

    Args:
        home: Where runs and fetched teachers are.
        name: A run, a checkpoint file, or a fetched teacher.
        model: The network of a checkpoint file that does not say it.
        arguments: Its arguments, where it is from elsewhere.
        best: Take a run's best epoch's weights, not the last's.
        dataset: The data set's name; the one it was trained on if None.
        folder: A folder with the data set's files.
        device: Where to compute.
        precision: Precision of the forward passes.
        batch_size: Images at a time.
        robustness: What is measured beside, on shifted images and on other data sets.
        limit: Use so many test images, evenly spread, for that; all if None.
        beside_teacher: Measure a student's teacher beside it.

    Raises:
        UsageError: Network, data or device are not to be had, or do not fit.
    """
    request = robustness or Request()
    shifts = request.shifts()
    reference = trained.find(home, name, dataset=dataset)
    if best:
        reference = best_of(reference)
    network = trained.load(reference, model=model, arguments=arguments)
    where = resolve_device(
        device,
    )
    set_float32_precision(precision, where)
    section = data_of(network, dataset, folder)
    splits = data.load(section, home.datasets, seed=0, in_channels=network.network.in_channels)
    say_if_changed(network, section, home.datasets)
    trained.fit_to(network, splits.test, section.described)
    place(network.network, where)
    teacher = _teacher_of(home, network, section) if beside_teacher else None
    of_teacher = None
    if teacher is not None:
        trained.fit_to(teacher, splits.test, section.described)
        place(teacher.network, where)
        images = Batches(splits.test, batch_size, device=where, padding=0, flip=False, seed=0)
        asked = resolve_precision(precision, where, teacher.network, trains=False)
        of_teacher, _ = predict(teacher.network, images, asked)
    evaluation = evaluate(
        network.network,
        splits.test,
        device=where,
        precision=resolve_precision(precision, where, network.network, trains=False),
        teacher_logits=of_teacher,
        batch_size=batch_size,
    )
    found = measure_shifts(
        network.network,
        splits.test if limit is None else splits.test.spread(limit),
        shifts,
        device=where,
        teacher=None if teacher is None else teacher.network,
        batch_size=batch_size,
    )
    probed = [_probe(home, probe, network, teacher, splits.test, where) for probe in request.probes]
    return {
        "reference": reference.name,
        "source": reference.described,
        "model": network.model,
        "dataset": section.described,
        "teacher": f"{teacher.model} from {teacher.reference.described}" if teacher else None,
        "evaluation": evaluation.to_dict(),
        "robustness": [each.to_dict() for each in found],
        "transfer": [each.to_dict() for each in probed],
    }


def _probe(
    home: Home,
    name: str,
    network: Trained,
    teacher: Trained | None,
    seen: ImageSet,
    device: torch.device,
) -> Transfer:
    """A linear probe on another data set, whose images are brought to the size of those that the network knows."""
    logger.info(f"linear probe on {name}")
    section, size = data.data_spec({"name": name}), seen.image_shape[1:]

    def probe(one: Trained) -> tuple[float, float]:
        splits = data.load(section, home.datasets, seed=0, in_channels=one.network.in_channels)
        return linear_probe(one.network, splits, device=device, size=size)

    top1, decay = probe(network)
    return Transfer(section.name, top1, decay, None if teacher is None else probe(teacher)[0])


def best_of(reference: Reference) -> Reference:
    """The same run with its best epoch's weights.

    Raises:
        UsageError: It is no run, or has none.
    """
    path = reference.run.path / "best.safetensors" if reference.run else None
    if path is None or not path.is_file():
        raise UsageError(f"There is no best epoch of {reference.described}.", "Leave out --best, or name a run.")
    return replace(reference, path=path, described=f"{reference.described}, best epoch")


def data_of(network: Trained, dataset: str | None, folder: str | None) -> data.DataSpec:
    """The data set that a network is measured on: the named one, else the one that it was trained on.

    Raises:
        UsageError: There is no data set of this name.
    """
    known = network.data
    if network.reference.run is not None and known is not None and dataset in (None, known.name):
        return known if folder is None else known.model_copy(update={"folder": folder})
    values = {"name": dataset or network.dataset or DEFAULT_DATASET}
    section = data.data_spec(values if folder is None else {**values, "folder": folder})
    return section if known is None else section.like(known)


def say_if_changed(
    network: Trained,
    section: data.DataSpec,
    downloads: Path,
) -> None:
    """Warn of images that are not those that a network was trained on, of which it may know some."""
    if network.fingerprint is None or network.data is None or network.data.name != section.name:
        return
    now = section.model_copy(update={"fingerprint": None}).stamped(downloads).fingerprint
    if now != network.fingerprint:
        logger.warning(
            f"the images of {section.described} are not those that the network was trained on; it may have "
            "been trained on some of these test images"
        )


def _teacher_of(
    home: Home,
    network: Trained,
    section: data.DataSpec,
) -> Trained | None:
    """The teacher of a student's run, if it is still there and is the same."""
    run = network.reference.run
    spec = load_of_run(run.path) if run is not None else None
    if not isinstance(spec, StudentSpec) or spec.data.name != section.name:
        return None
    try:
        if spec.ensemble:
            logger.info("compared with the first of its teachers alone")
        teacher = trained.load(
            trained.find(home, spec.teacher, dataset=section.name),
            model=spec.teacher_model,
            arguments=spec.teacher_args,
        )
    except UsageError as error:
        logger.info(f"not compared with its teacher: {error.problem}")
        return None
    if teacher.digest != spec.teacher_digest:
        logger.info(
            f"not compared with its teacher: the weights of {spec.teacher} are no longer those it learned from."
        )
        return None
    return teacher
