"""Fills a store of cached knowledge ahead of time."""

from collections.abc import Callable
from typing import Any

import torch

from tekapctl import data
from tekapctl.device import make_deterministic, place, resolve_device, resolve_precision, set_float32_precision
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.spec import StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.build import training_batches
from tekapctl.train.source import find_teacher
from tekapctl.train.teacher import CachedTeacher, LiveTeacher

Report = Callable[[int, int], None]
"""Is told how many views were seen to, of how many."""


@failures_in_words("asking the teacher")
def open_cache(
    spec: StudentSpec,
    home: Home,
) -> CachedTeacher:
    """The cached teacher of a run's spec.

    Raises:
        UsageError: Teacher, data or device are not to be had, or do not fit.
    """
    if spec.ensemble:
        raise UsageError("The knowledge of one teacher is cached at a time.", "Give a single --teacher.")
    device = resolve_device(
        spec.device,
    )
    make_deterministic(device)
    set_float32_precision(spec.precision, device)
    teacher, spec = find_teacher(spec, home)
    spec = spec.model_copy(update={"data": spec.data.pinned(home.datasets)})
    splits = data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=teacher.network.in_channels)
    trained.fit_to(teacher, splits.test, spec.data.described)
    place(teacher.network, device)
    batches = training_batches(spec, splits, device)
    precision = resolve_precision(spec.precision, device, teacher.network, trains=False)
    live = LiveTeacher(teacher.network, batches, precision, compiled=spec.compile)
    return CachedTeacher(live, batches, home.knowledge, teacher, spec.data.name)


@failures_in_words("asking the teacher")
def warm(cached: CachedTeacher, report: Report) -> dict[str, Any]:
    """Ask the teacher for every view of every training image that is not known yet; what is done is kept if it breaks.

    Args:
        cached: The cached teacher.
        report: Is told how far it is.

    Returns:
        What came of it, as plain values.
    """
    batches = cached.batches
    numbers = batches.image_set.numbers
    views = torch.arange(0, batches.views, 1 if batches.flip else 2)
    total, seen, asked = len(batches.image_set) * len(views), 0, 0
    for part in torch.arange(total).split(cached.live.batch_size):
        # View by view, so that what is there when it breaks serves all images alike.
        view, index = views[part // len(batches.image_set)], part % len(batches.image_set)
        asked += cached.warm(index if numbers is None else numbers[index], index, view)
        seen += len(part)
        report(seen, total)
        if cached.store.is_full:
            break
    return {
        "store": str(cached.store.path),
        "views": total,
        "asked": asked,
        "complete": seen == total and not cached.store.is_full,
        "bytes": cached.store.bytes_used,
        "bytes_when_full": cached.store.identity.bytes,
    }
