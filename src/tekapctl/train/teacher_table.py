"""A complete cache of teacher outputs in the memory of a GPU: a step reads neither files nor the teacher."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from tekapctl.data.batch import Batch
from tekapctl.models.network import Knowledge
from tekapctl.train.teacher import CachedTeacher

_SHARE = 0.5
"""Of the free memory of the device, at most."""
_TOGETHER = 16_384
"""Records that are read at a time."""


class TeacherTable:
    """The teacher's logits and embeddings of every view of every training image, on the device.

    Args:
        cached: The cache that they are from.
        values: A row for each view of each image, as in the cache.
    """

    def __init__(self, cached: CachedTeacher, values: Shaped[Tensor, "views width"]) -> None:
        self.cached = cached
        self.live = cached.live
        self.values = values

    def __call__(self, batch: Batch) -> Knowledge:
        """The teacher's knowledge of a batch."""
        batches = self.cached.batches
        view = batch.view if batches.flip else batch.view // 2
        places = batch.index * batches.distinct_views + view.to(self.values.device, non_blocking=True)
        return self.cached.knowledge(self.values[places])


def table_of(cached: CachedTeacher) -> TeacherTable | None:
    """The table of a cache; None if views do not repeat, one is not cached, or the device has too little memory."""
    batches = cached.batches
    if batches.device.type != "cuda" or not batches.repeats_views:
        return None
    count, width = len(batches.image_set) * batches.distinct_views, cached.width
    free = torch.cuda.mem_get_info(batches.device)[0]
    if count * width * cached.dtype.itemsize > _SHARE * free:
        return None
    numbers = batches.image_set.source_index
    values: Tensor | None = None
    for rows in torch.arange(count).split(_TOGETHER):
        index, view = rows // batches.distinct_views, rows % batches.distinct_views
        number = index if numbers is None else numbers[index]
        words, is_known = cached.store.read((number * batches.distinct_views + view).numpy())
        if not is_known.all():
            return None
        if values is None:  # only now: most caches are not complete
            values = torch.empty(count, width, dtype=cached.dtype, device=batches.device)
        values[rows[0] : rows[-1] + 1] = cached.values(words).to(batches.device)
    return None if values is None else TeacherTable(cached, values)
