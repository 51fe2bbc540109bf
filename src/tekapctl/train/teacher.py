"""The frozen teacher as a run asks it: live, or from what it said before."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tekapctl.data.batches import Batch, Batches
from tekapctl.device import autocast, compile_for, describe_kind, describe_passes, place
from tekapctl.models import Network
from tekapctl.models.folding import fold
from tekapctl.models.network import Knowledge, Requires, of_batch
from tekapctl.store.teacher_cache import Identity, Places, TeacherCache
from tekapctl.train.trained import Trained

_NOTHING_MORE = Requires()
Asked = Callable[[Batch], Knowledge]
Words = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


class LiveTeacher:
    """The teacher itself, in evaluation mode, its batch norms folded away, asked anew for every batch.

    Args:
        network: The trained network.
        batches: Where its images come from.
        precision: Precision of its passes.
        requires: What is wanted beside logits and embeddings.
        compiled: Compile it for the device.
    """

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
        self._knowledge = compile_for(self.device, self.network.knowledge) if compiled else self.network.knowledge

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Knowledge:
        """What the teacher says of a batch."""
        with autocast(self.device, self.precision):
            return of_batch(self._of_full_batch, self.network.normalize, batch, self.requires)

    @torch.no_grad()
    def say(self, pixels: Tensor) -> Knowledge:
        """The teacher's logits and embeddings of at most a batch of images, given as pixels."""
        with autocast(self.device, self.precision):
            return self._of_full_batch(self.network.normalize(pixels), feature_maps=False)

    def _of_full_batch(self, images: Tensor, *, feature_maps: bool, preactivations: bool = False) -> Knowledge:
        """The forward pass of a full batch, padded where there are fewer images.

        A pass of another batch size computes in another order and rounds differently. With padding, the teacher's
        output for an image is the same to the bit in a full batch, in an epoch's last one, and for a single image.
        """
        count = len(images)
        if count < self.batch_size:
            full = images.new_zeros((self.batch_size, *images.shape[1:]))
            full[:count] = images
            images = full.contiguous(memory_format=torch.channels_last)
        found = self._knowledge(images, feature_maps=feature_maps, preactivations=preactivations)
        return found.first(count)


def _cast_weights(network: Network, precision: torch.dtype) -> None:
    """Keep the weights of convolutions and linear layers as autocast would round them, anew in each pass.

    Whatever else may read weights, as hooks and layers of the user's own do, finds them as they were.
    """
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear) and not module._forward_pre_hooks:
            module.to(precision)


class SharedForward:
    """A teacher whom several students ask of the same batch, and who answers it once.

    Args:
        teacher: The teacher.
    """

    def __init__(self, teacher: Asked) -> None:
        self.teacher = teacher
        self._batch: Batch | None = None
        self._said: Knowledge | None = None

    def __call__(self, batch: Batch) -> Knowledge:
        """What the teacher says of a batch."""
        if self._said is None or batch is not self._batch:
            self._batch, self._said = batch, self.teacher(batch)
        return self._said


def without_store(teacher: Asked) -> Asked:
    """The teacher itself, behind what others remember of it."""
    while isinstance(teacher, SharedForward):
        teacher = teacher.teacher
    return teacher.live if isinstance(teacher, CachedTeacher) else teacher


class CachedTeacher:
    """The teacher's logits and embeddings from a store; what is not there yet is asked of the live teacher and kept.

    The frozen teacher sees one of a few views of each image, so that this is what it says and no approximation. Numbers
    are kept in the precision in which they were computed.

    Args:
        live: The teacher.
        batches: The training batches.
        folder: Where stores are.
        trained: Where the teacher came from.
        dataset: Name of the data set, for people.
    """

    def __init__(
        self,
        live: LiveTeacher,
        batches: Batches,
        folder: Path,
        trained: Trained,
        dataset: str,
    ) -> None:
        self.live = live
        self.batches = batches
        probe = live.say(live.probe)
        self._dtypes = (probe.embedding.dtype, probe.logits.dtype)
        self._widths = [probe.embedding.shape[1], probe.logits.shape[1]]
        # The wider of both holds each without loss.
        self.dtype = torch.promote_types(*self._dtypes)
        values = sum(self._widths)
        self._padding = (-values * self.dtype.itemsize) % 4 // self.dtype.itemsize
        image_set = batches.image_set
        normalization = live.network.normalization
        whole = len(image_set if image_set.full_images is None else image_set.full_images)
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
                    "numbers": precision,
                    "embedding": self._widths[0],
                    "classes": self._widths[1],
                    "device": describe_kind(live.device),
                    "torch": torch.__version__,
                },
                records=whole * batches.distinct_views,
                words=(values + self._padding) * self.dtype.itemsize // 4,
            ),
        )

    def __call__(self, batch: Batch) -> Knowledge:
        """What the teacher says of a batch."""
        places = self.places(batch.source_index, batch.view)
        words, is_known = self.store.read(places)
        if not is_known.all():
            missing = np.flatnonzero(~is_known)
            words[missing] = self._ask(batch.images)[missing]
            self.store.write(places[missing], words[missing])
        return self._knowledge(words)

    def places(self, number: Tensor, view: Tensor) -> Places:
        """The records of samples, by their numbers in the whole set and their views."""
        if not self.batches.flip:
            view = view // 2
        found: Places = (number * self.batches.distinct_views + view).numpy()
        return found

    def warm(self, number: Tensor, index: Tensor, view: Tensor) -> int:
        """Ask for views that are not known yet, and keep them; returns how many these were.

        Args:
            number: The samples' numbers in the whole set.
            index: Their numbers in the image set.
            view: Their views.
        """
        places = self.places(number, view)
        missing = np.flatnonzero(~self.store.read(places)[1])
        if len(missing):
            chosen = torch.from_numpy(missing)
            self.store.write(places[missing], self._ask(self.batches.at(index[chosen], view[chosen])))
        return len(missing)

    def _ask(self, images: Tensor) -> Words:
        found = self.live.say(images)
        values = torch.cat([found.embedding.to(self.dtype), found.logits.to(self.dtype)], dim=1)
        values = torch.nn.functional.pad(values, (0, self._padding)).cpu().contiguous()
        return values.view(torch.int32).numpy().view(np.uint32)

    def _knowledge(self, words: Words) -> Knowledge:
        values = torch.from_numpy(np.ascontiguousarray(words).view(np.int32)).view(self.dtype)
        if self.live.device.type == "cuda":
            values = values.pin_memory()
        values = values.to(self.live.device, non_blocking=True)
        embedding, logits, _ = values.split([*self._widths, values.shape[1] - sum(self._widths)], dim=1)
        return Knowledge(logits=logits.to(self._dtypes[1]), embedding=embedding.to(self._dtypes[0]))
