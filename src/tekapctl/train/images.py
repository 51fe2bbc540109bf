"""The images of a run: loaded, in batches, and beside them those without labels, whose classes the teacher names."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from tekapctl import data
from tekapctl.data.batches import Batches
from tekapctl.data.files.listing import count, few, unlabelled_files
from tekapctl.data.files.scanning import decode_all
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.device import make_deterministic, place, resolve_precision, set_float32_precision
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.errors import UsageError
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.evaluation import predict
from tekapctl.train.trained import Trained

logger = logging.getLogger(__name__)

_TOGETHER = 100
_TEST_BATCH = 500
"""Test images at a time, at most."""


def load_data(spec: RunSpec, home: Home, teachers: Sequence[Trained], comm: Communicator) -> Splits:
    """The image sets, in the channels that the networks take; one process reads them before the others."""
    channels = teachers[0].network.in_channels if teachers else None
    splits = comm.main_process_first(
        lambda: data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=channels)
    )
    for note in splits.notes:
        logger.info(note)
    return splits


def make_batches(
    spec: RunSpec, splits: Splits, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> tuple[Batches, Batches]:
    """The training images, and those that epochs are evaluated on, in the batches of a run, on its device."""
    make_deterministic(device)
    set_float32_precision(spec.precision, device)
    evaluated = splits.test if splits.val is None else splits.val
    return training_batches(spec, splits, device, comm), evaluation_batches(spec, evaluated, device, comm)


def evaluation_batches(
    spec: RunSpec, images: ImageSet, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> Batches:
    """Images without augmentation, in batches."""
    # No more images than a training step has memory for: it keeps what its backward pass needs.
    together = min(_TEST_BATCH, 8 * spec.batch_size)
    return Batches(images, together, device=device, comm=comm)


def training_batches(
    spec: RunSpec, splits: Splits, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> Batches:
    """The training set in the batches of a run."""
    return Batches(
        splits.train,
        spec.batch_size,
        device=device,
        padding=spec.data.padding,
        flip=spec.data.flip,
        seed=spec.batch_seed,
        random_resized_crop=spec.data.random_resized_crop,
        augment=spec.data.augment,
        repeats=spec.data.repeats,
        accumulate=spec.accumulate,
        comm=comm,
    )


def with_unlabelled(
    spec: RunSpec, splits: Splits, teacher: Trained | None, device: torch.device, comm: Communicator = SINGLE_PROCESS
) -> Splits:
    """Add the unlabelled images of a run to its training images, in the channels that the networks take.

    The class that the teacher, the first of an ensemble, finds most probable, in the image without augmentation, stands
    in for the label where a method or a perturbation reads one. The cross-entropy leaves the image out.

    Raises:
        UsageError: An image cannot be read, or the method reads labels and the teacher has other classes.
    """
    if not isinstance(spec, StudentSpec) or teacher is None or spec.data.unlabelled is None:
        return splits
    with comm.raise_together():
        images = _read(spec, splits.train)
    added = replace(
        splits.train,
        images=images,
        labels=torch.zeros(len(images), dtype=torch.long),
        source_index=None,
        full_images=None,
    )
    if trained.fit_to(teacher, splits.test, spec.data.described, needs_classes=spec.requires.classes):
        make_deterministic(device)
        set_float32_precision(spec.precision, device)
        place(teacher.network, device)
        batches = Batches(added, _TOGETHER, device=device, comm=comm)
        precision = resolve_precision(spec.precision, device, teacher.network, trains=False)
        logits, _ = predict(teacher.network, batches, precision)
        added = replace(added, labels=logits.argmax(1).cpu())
    elif spec.beta and spec.method.reads_labels:
        raise UsageError(
            f"{spec.method.name} reads labels, and this teacher cannot name the classes of unlabelled images.",
            "Use a teacher with the classes of the data, or a method that reads features alone, such as embed.",
        )
    train = joined(splits.train, added) if spec.data.train_fraction else _without_labels(added)
    logger.info(
        f"unlabelled images: {len(images):,} from {spec.data.unlabelled}; labelled: {len(train) - len(images):,}"
    )
    return replace(splits, train=train)


def joined(labelled: ImageSet, unlabelled: ImageSet) -> ImageSet:
    """Both sets as one, in which the labels of the second weigh nothing."""
    full = labelled.images if labelled.full_images is None else labelled.full_images
    source = torch.arange(len(labelled)) if labelled.source_index is None else labelled.source_index
    total = len(labelled) + len(unlabelled)
    weights = torch.zeros(total)
    weights[: len(labelled)] = total / len(labelled)
    images = _concatenated(labelled.images, unlabelled.images)
    return replace(
        labelled,
        images=images,
        labels=torch.cat([labelled.labels, unlabelled.labels]),
        source_index=torch.cat([source, len(full) + torch.arange(len(unlabelled))]),
        full_images=images if full is labelled.images else _concatenated(full, unlabelled.images),
        label_weights=weights,
    )


def _without_labels(unlabelled: ImageSet) -> ImageSet:
    return replace(unlabelled, label_weights=torch.zeros(len(unlabelled)))


def _concatenated(
    some: UInt8[Tensor, "n c h w"] | ImageFiles, more: UInt8[Tensor, "m c h w"] | ImageFiles
) -> UInt8[Tensor, "all c h w"] | ImageFiles:
    if isinstance(some, ImageFiles) and isinstance(more, ImageFiles):
        return some.with_paths(some.paths + more.paths)
    assert isinstance(some, Tensor)
    assert isinstance(more, Tensor)
    return torch.cat([some, more])


def _read(spec: StudentSpec, train: ImageSet) -> UInt8[Tensor, "n c h w"] | ImageFiles:
    """The unlabelled images in the size and the channels of the training images, streamed if these are."""
    paths = tuple(str(path) for path in unlabelled_files(spec.data.unlabelled))
    if isinstance(train.images, ImageFiles):
        return train.images.with_paths(paths)
    channels, height, width = train.image_shape
    own = 1 if train.is_grey else channels
    images, damaged = decode_all(ImageFiles(paths, own, (height, width)))
    if damaged and not getattr(spec.data, "skip_damaged", False):
        raise UsageError(
            f"{count(damaged, 'unlabelled image')} cannot be read: {few(damaged)}.", "Replace or remove the files."
        )
    unreadable = set(damaged)
    images = images[torch.tensor([path not in unreadable for path in paths])]
    return images.expand(-1, channels, -1, -1)
