"""Fill a cache of teacher outputs ahead of training."""

from collections.abc import Callable
from typing import Any

import torch

from tekapctl import data
from tekapctl.device import make_deterministic, place, resolve_device, resolve_precision, set_float32_precision
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.spec import StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.images import training_batches, with_unlabelled
from tekapctl.train.source import find_teacher
from tekapctl.train.teacher import CachedTeacher, LiveTeacher

Report = Callable[[int, int], None]
"""Called with the number of parts that are done and their total."""


@failures_in_words("caching the teacher's outputs")
def open_cache(spec: StudentSpec, home: Home) -> CachedTeacher:
    """The cached teacher that a run with this spec uses.

    Raises:
        UsageError: The teacher, the data or the device is unavailable, or they do not fit together.
    """
    if spec.ensemble:
        raise UsageError("Caches are filled for one teacher at a time.", "Name a single teacher.")
    if not spec.data.repeats_views and spec.data.repeats > 1:
        raise UsageError(
            "data.repeats shows an image several times in an epoch, always in another view, and the cache has one.",
            "Leave out `data.repeats`, or the augmentations.",
        )
    device = resolve_device(spec.device)
    make_deterministic(device)
    set_float32_precision(spec.precision, device)
    teacher, spec = find_teacher(spec, home)
    spec = spec.model_copy(update={"data": spec.data.pinned(home.datasets)})
    splits = data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=teacher.network.in_channels)
    trained.fit_to(teacher, splits.test, spec.data.described, needs_classes=spec.requires.classes)
    splits = with_unlabelled(spec, splits, teacher, device)
    place(teacher.network, device)
    batches = training_batches(spec, splits, device)
    precision = resolve_precision(spec.precision, device, teacher.network, trains=False)
    live = LiveTeacher(teacher.network, batches, precision, compiled=spec.compile)
    return CachedTeacher(live, batches, home.knowledge, teacher, spec.data.name, spec.total_epochs)


@failures_in_words("caching the teacher's outputs")
def warm(cached: CachedTeacher, report: Report) -> dict[str, Any]:
    """Compute the teacher's outputs for all views of all training images, or for all epochs, that are not cached yet.

    An interruption loses nothing that was computed.

    Returns:
        Plain values: `store` (its folder), `views` (all of them), `computed` (those not cached before), `complete`,
        `bytes` and `bytes_when_full`.
    """
    batches = cached.batches
    if not batches.repeats_views:
        return _warm_epochs(cached, report)
    numbers = batches.image_set.source_index
    views = torch.arange(0, batches.views, 1 if batches.flip else 2)
    total, done, computed = len(batches.image_set) * len(views), 0, 0
    for part in torch.arange(total).split(cached.live.batch_size):
        # View by view, so that an interrupted cache covers all images evenly.
        view, index = views[part // len(batches.image_set)], part % len(batches.image_set)
        computed += cached.warm(index if numbers is None else numbers[index], index, view)
        done += len(part)
        report(done, total)
        if cached.store.is_full:
            break
    return _found(cached, total, computed, is_complete=done == total)


def _warm_epochs(cached: CachedTeacher, report: Report) -> dict[str, Any]:
    """Compute the outputs for the images of every epoch."""
    batches = cached.batches
    total, done, computed = len(batches.image_set) * cached.epochs, 0, 0
    for epoch in range(cached.epochs):
        for batch in batches.epoch(epoch):
            computed += cached.warm_batch(batch)
            done += len(batch.labels)
            report(done, total)
            if cached.store.is_full:
                return _found(cached, total, computed, is_complete=False)
    return _found(cached, total, computed, is_complete=True)


def _found(cached: CachedTeacher, total: int, computed: int, *, is_complete: bool) -> dict[str, Any]:
    return {
        "store": str(cached.store.path),
        "views": total,
        "computed": computed,
        "complete": is_complete and not cached.store.is_full,
        "bytes": cached.store.bytes_used,
        "bytes_when_full": cached.store.identity.bytes,
    }
