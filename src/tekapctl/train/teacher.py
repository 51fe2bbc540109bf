"""The frozen teacher's forward pass: live, cached, or shared by several students."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.device import autocast, compile_for, describe_kind, describe_passes, place
from tekapctl.models import Network
from tekapctl.models.fusing import fold, fuse
from tekapctl.models.knowledge import Knowledge, Requires, of_batch
from tekapctl.store.teacher_cache import Identity, Indices, TeacherCache
from tekapctl.train.trained import Trained

_NOTHING_MORE = Requires()
TeacherForward = Callable[[Batch], Knowledge]
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


class LiveTeacher:
    """The teacher in evaluation mode, with its batch norms folded, run for every batch."""

    def __init__(
        self,
        network: Network,
        batches: Batches,
        precision: torch.dtype,
        *,
        requires: Requires = _NOTHING_MORE,
        compiled: bool = False,
    ) -> None:
        self.device = batches.device
        self.precision = precision
        self.requires = requires
        self.probe = batches.probe(2)
        self.batch_size = batches.largest_shard
        self.folding = fold(network, network.normalize(self.probe))
        self.network = self.folding.network
        place(self.network, self.device)
        _cast_weights(self.network, precision)
        self.fused = 0
        if self.device.type in ("cuda", "cpu") and not compiled:  # torch.compile fuses by itself
            # cuDNN's choice of a kernel depends on the size of the batch.
            repeats = -(-self.batch_size // len(self.probe)) if self.device.type == "cuda" else 1
            with autocast(self.device, precision):
                self.fused = fuse(self.network, network.normalize(self.probe.repeat(repeats, 1, 1, 1)))
        self.compiled = compiled
        self._knowledge = compile_for(self.device, self.network.knowledge) if compiled else self.network.knowledge

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Knowledge:
        """The teacher's knowledge of a batch."""
        with autocast(self.device, self.precision):
            return of_batch(self._of_full_batch, self.network.normalize, batch, self.requires)

    @torch.no_grad()
    def forward_pixels(self, pixels: Tensor) -> Knowledge:
        """The teacher's logits and embeddings of at most a batch of images with pixels from 0 to 255."""
        with autocast(self.device, self.precision):
            return self._of_full_batch(self.network.normalize(pixels), feature_maps=False)

    def _of_full_batch(self, images: Tensor, *, feature_maps: bool, preactivations: bool = False) -> Knowledge:
        """The forward pass of a full batch; smaller batches are padded.

        Other batch sizes round differently. With padding, the output for an image is bitwise the same in a full batch,
        in an epoch's last one, and for a single image.
        """
        count = len(images)
        if count < self.batch_size:
            full = images.new_zeros((self.batch_size, *images.shape[1:]))
            full[:count] = images
            images = full.contiguous(memory_format=torch.channels_last)
        found = self._knowledge(images, feature_maps=feature_maps, preactivations=preactivations)
        return found.first(count)


def _cast_weights(network: Network, precision: torch.dtype) -> None:
    """Round the weights of convolutions and linear layers once, as autocast would in every pass.

    Layers with hooks, which may read the weights, and other layers keep theirs.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear) and not module._forward_pre_hooks:
            module.to(precision)


class SharedForward:
    """Runs a teacher once for a batch that several students see."""

    def __init__(self, teacher: TeacherForward) -> None:
        self.teacher = teacher
        self._batch: Batch | None = None
        self._said: Knowledge | None = None

    def __call__(self, batch: Batch) -> Knowledge:
        """The teacher's knowledge of a batch."""
        if self._said is None or batch is not self._batch:
            self._batch, self._said = batch, self.teacher(batch)
        return self._said


def live_teacher(teacher: TeacherForward) -> TeacherForward:
    """The live teacher behind a shared or cached one."""
    while isinstance(teacher, SharedForward):
        teacher = teacher.teacher
    live: TeacherForward = getattr(teacher, "live", teacher)
    return live


class CachedTeacher:
    """The teacher's logits and embeddings from a cache, which the live teacher fills.

    Crops by padding and flips show a few views of each image, each of which has a record. With other augmentations an
    image has a record for each epoch, as random numbers depend on seed, epoch and step alone. Either way the outputs
    are exact: they are kept in the precision in which they were computed.
    """

    def __init__(
        self,
        live: LiveTeacher,
        batches: Batches,
        folder: Path,
        trained: Trained,
        dataset: str,
        epochs: int,
    ) -> None:
        self.live = live
        self.batches = batches
        self.epochs = epochs
        probe = live.forward_pixels(live.probe)
        self._dtypes = (probe.embedding.dtype, probe.logits.dtype)
        self._widths = [probe.embedding.shape[1], probe.logits.shape[1]]
        # The wider of both dtypes holds each without loss.
        self.dtype = torch.promote_types(*self._dtypes)
        values = sum(self._widths)
        self._padding = (-values * self.dtype.itemsize) % 4 // self.dtype.itemsize
        image_set = batches.image_set
        normalization = live.network.normalization
        self._images = len(image_set if image_set.full_images is None else image_set.full_images)
        precision = str(self.dtype).removeprefix("torch.")
        self.store = TeacherCache(
            folder,
            Identity(
                f"{trained.model}-{dataset}-{precision}",
                {
                    "teacher": trained.digest,
                    "images": image_set.fingerprint,
                    "normalization": str(normalization),
                    "padding": batches.padding,
                    "flip": int(batches.flip),
                    "passes": describe_passes(live.device, live.precision),
                    "fused": live.fused,
                    "compiled": int(live.compiled),
                    "numbers": precision,
                    "embedding": self._widths[0],
                    "classes": self._widths[1],
                    "device": describe_kind(live.device),
                    "torch": torch.__version__,
                    **({} if batches.repeats_views else {"recipe": batches.recipe}),
                    # They may change what the same weights compute.
                    **({"arguments": json.dumps(dict(trained.arguments), sort_keys=True)} if trained.arguments else {}),
                },
                records=self._images * (batches.distinct_views if batches.repeats_views else epochs),
                words=(values + self._padding) * self.dtype.itemsize // 4,
            ),
        )

    def __call__(self, batch: Batch) -> Knowledge:
        """The teacher's knowledge of a batch."""
        return self._decode(self._filled(batch)[0])

    def warm_batch(self, batch: Batch) -> int:
        """Compute and keep the outputs of a batch that are not cached yet; returns how many these were."""
        return self._filled(batch)[1]

    def _filled(self, batch: Batch) -> tuple[Words, int]:
        """The records of a batch, and how many of them were computed."""
        if self.batches.repeats_views:
            places = self.places(batch.source_index, batch.view)
        else:
            epoch = batch.step // len(self.batches)
            places = (batch.source_index + epoch * self._images).numpy()
        words, is_known = self.store.read(places)
        missing = np.flatnonzero(~is_known)
        if len(missing):
            words[missing] = self._compute(batch.images)[missing]
            self.store.write(places[missing], words[missing])
        return words, len(missing)

    def places(self, number: Tensor, view: Tensor) -> Indices:
        """The records of samples, by their numbers in the full set and their views."""
        if not self.batches.flip:
            view = view // 2
        found: Indices = (number * self.batches.distinct_views + view).numpy()
        return found

    def warm(self, number: Tensor, index: Tensor, view: Tensor) -> int:
        """Compute and keep views that are not cached yet; returns how many these were.

        The samples are given by their numbers in the full set and in the image set.
        """
        places = self.places(number, view)
        missing = np.flatnonzero(~self.store.read(places)[1])
        if len(missing):
            chosen = torch.from_numpy(missing)
            self.store.write(places[missing], self._compute(self.batches.at(index[chosen], view[chosen])))
        return len(missing)

    def _compute(self, images: Tensor) -> Words:
        found = self.live.forward_pixels(images)
        values = torch.cat([found.embedding.to(self.dtype), found.logits.to(self.dtype)], dim=1)
        values = torch.nn.functional.pad(values, (0, self._padding)).cpu().contiguous()
        return values.view(torch.int32).numpy().view(np.uint32)

    @property
    def width(self) -> int:
        """Numbers in a record."""
        return sum(self._widths) + self._padding

    def values(self, words: Words) -> Shaped[Tensor, "records width"]:
        """The numbers in some records."""
        return torch.from_numpy(np.ascontiguousarray(words).view(np.int32)).view(self.dtype)

    def knowledge(self, values: Shaped[Tensor, "batch width"]) -> Knowledge:
        """The outputs that are some records' numbers."""
        embedding, logits, _ = values.split([*self._widths, self._padding], dim=1)
        return Knowledge(logits=logits.to(self._dtypes[1]), embedding=embedding.to(self._dtypes[0]))

    def _decode(self, words: Words) -> Knowledge:
        values = self.values(words)
        if self.live.device.type == "cuda":
            values = values.pin_memory()
        return self.knowledge(values.to(self.live.device, non_blocking=True))
