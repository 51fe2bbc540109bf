"""Batches of images, cropped and flipped on the device; images are kept there or streamed from files."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.augment.augmentation import AugmentSpec, Draws, MixSpec
from tekapctl.data.batch import Batch, Part
from tekapctl.data.files.streaming import ImageFiles, Loader, Request
from tekapctl.data.image_set import ImageSet
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.distributed.shard import FULL_BATCH, BatchShard, micro_batches, spans
from tekapctl.randomness import derive, generator

CPU = torch.device("cpu")


class Batches:
    """An image set in batches.

    The usual augmentation for small images: a random crop of the zero-padded image and a flip with probability 0.5. All
    random numbers depend on seed, epoch and step alone and are drawn on the CPU, so every device sees the same batches.

    Images of files may be cropped as by torchvision's RandomResizedCrop when they are decoded, without padding. Further
    augmentations are applied in their order; of those that mix images, one is drawn for each step. Of repeated images,
    copies follow each other in an epoch, each augmented differently (Hoffer et al., "Augment Your Batch", CVPR 2020;
    Berman et al., "MultiGrain", 2019); the epoch keeps its length and shows some images. The last step of an epoch may
    have fewer images than `batch_size`, and the samples of a step are split into `accumulate` batches.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        device: torch.device,
        padding: int = 0,
        flip: bool = False,
        seed: int = 0,
        random_resized_crop: bool = False,
        augment: Sequence[AugmentSpec] = (),
        repeats: int = 1,
        accumulate: int = 1,
        comm: Communicator = SINGLE_PROCESS,
    ) -> None:
        if random_resized_crop and (padding or not isinstance(image_set.images, ImageFiles)):
            raise ValueError("random_resized_crop needs image files and no padding")
        self.image_set = image_set
        self.batch_size = batch_size
        self.device = device
        self.padding = padding
        self.flip = flip
        self.seed = seed
        self.comm = comm
        self.accumulate = accumulate
        self.augment = augment
        self.repeats = repeats
        self._mixes = [each for each in augment if isinstance(each, MixSpec)]
        self.labels = image_set.labels.to(device)
        weights = image_set.label_weights
        self._label_weights = None if weights is None else weights.to(device)
        self.random_resized_crop = random_resized_crop
        self._files = image_set.images if isinstance(image_set.images, ImageFiles) else None
        self.seconds_waited = 0.0
        self._loader = Loader(self._files, pinned=device.type == "cuda") if self._files else None
        self._stored = image_set.images.to(device) if isinstance(image_set.images, Tensor) else torch.empty(0)

    def __len__(self) -> int:
        """Steps per epoch."""
        return -(-len(self.image_set) // self.batch_size)

    @property
    def views(self) -> int:
        """Number of crops and flips of an image."""
        return (2 * self.padding + 1) ** 2 * 2

    @property
    def distinct_views(self) -> int:
        """Number of them that occur in training: half as many without flips."""
        return self.views if self.flip else self.views // 2

    @property
    def repeats_views(self) -> bool:
        """Whether training shows the same few views of an image again and again: crops by padding, and flips."""
        return not (self.augment or self.random_resized_crop)

    @property
    def are_streamed(self) -> bool:
        """Whether images are read from files when they are needed; `seconds_waited` is the time waited for them."""
        return self._files is not None

    @property
    def are_decoded(self) -> bool:
        """Whether images are decoded when they are needed, though their decoded pixels could be stored on disk."""
        return self._files is not None and self._files.pixels is None and not self.random_resized_crop

    @property
    def has_labels(self) -> bool:
        """Whether any image has a label."""
        return self.image_set.label_weights is None or bool(self.image_set.label_weights.any())

    @property
    def recipe(self) -> str:
        """What the images of an epoch depend on, besides the epoch and the image set, as JSON."""
        numbers = self.image_set.source_index
        subset = "" if numbers is None else sha256(numbers.numpy().tobytes()).hexdigest()
        return json.dumps(
            {
                "seed": self.seed,
                "batch_size": self.batch_size,
                "accumulate": self.accumulate,
                "repeats": self.repeats,
                "random_resized_crop": self.random_resized_crop,
                "augment": [each.model_dump(mode="json") for each in self.augment],
                "subset": subset,
            },
            sort_keys=True,
        )

    def epoch(
        self, number: int, start_step: int = 0, end_step: int | None = None, *, strong: bool = False
    ) -> Iterator[Batch]:
        """The batches of an epoch (from 0) in random order, or this process's shards of them, to before `end_step`."""
        steps = list(enumerate(self._order(number).split(self.batch_size)))[start_step:end_step]
        parts = [part for step, index in steps for part in self._parts(number, step, index)]
        purposes = ["crop", "strong crop"] if strong and self.random_resized_crop else ["crop"]
        read = self._read(
            [
                # The crop of each image has its own seed, by its position in the step.
                (part.index[part.wanted], self._crop_seeds(part, purpose) if self.random_resized_crop else None)
                for part in parts
                for purpose in purposes
            ]
        )
        for part in parts:
            stored = next(read)
            views = self._views(part)
            images = self._augmented(stored, views, part)
            strong_images = None
            if strong:
                strong_images = self._strong(next(read) if self.random_resized_crop else stored, part)
            yield self._mixed(images, strong_images, views, part)

    def _parts(self, epoch: int, step: int, index: Tensor) -> Iterator[Part]:
        """The batches of a step, this process's shards of them."""
        mix, partners = None, None
        if self._mixes:
            source = generator(CPU, self.seed, "mix", epoch, step)
            mix = self._mixes[int(torch.randint(len(self._mixes), (), generator=source))]
            partners = torch.randperm(len(index), generator=source)
        offset = 0
        for count in micro_batches(len(index), self.accumulate):
            shard = BatchShard.of_batch(count, self.comm, offset)
            rows = torch.tensor(shard.rows(count))
            # Images of other shards and batches are read too if this one's are mixed with them.
            wanted = rows if partners is None or len(rows) == len(index) else torch.cat([rows, partners[rows]])
            offset += count
            share, ends_step = count / len(index), offset == len(index)
            yield Part(epoch, step, index, shard, rows, wanted, share, ends_step, mix, partners)

    @property
    def largest_shard(self) -> int:
        """The largest number of images that a process has in a batch."""
        counts = micro_batches(min(self.batch_size, len(self.image_set)), self.accumulate)
        return max(end - first for count in counts for first, end in spans(count, self.comm.world_size))

    def sample(self, count: int, *, strong: bool = False) -> Batch:
        """The first images of the first epoch as one batch of any size; none is augmented, not even `strong` ones."""
        index = self._order(0)[:count]
        view = torch.full_like(index, self.centre)
        images = self.at(index, view)
        return replace(self._batch(images, index, view, 0), strong=images if strong else None, label_weights=None)

    def in_order(self) -> Iterator[Batch]:
        """All samples once, in order, without augmentation; batches are dealt out to the processes in turn."""
        indices = torch.arange(len(self.image_set)).split(self.batch_size)[self.comm.rank :: self.comm.world_size]
        for step, stored in enumerate(self._read([(index, None) for index in indices])):
            view = torch.full_like(indices[step], self.centre)
            yield self._batch(self._augment(stored, view), indices[step], view, step)

    def gather(self, rows: Float[Tensor, "own width"]) -> Float[Tensor, "all width"]:
        """Gather results that the processes computed for their batches `in_order`, in the order of the set."""
        size = self.comm.world_size
        if size == 1:
            return rows
        samples = torch.arange(len(self.image_set)).split(self.batch_size)
        own = [torch.cat([torch.empty(0, dtype=torch.int64), *samples[rank::size]]) for rank in range(size)]
        found = torch.cat(self.comm.all_gather(rows, [len(numbers) for numbers in own]))
        return found[torch.cat(own).argsort().to(found.device)]

    def probe(self, count: int) -> Shaped[Tensor, "_count c h w"]:
        """The first images, without augmentation."""
        index = torch.arange(min(count, len(self.image_set)))
        return self.at(index, torch.full_like(index, self.centre))

    @property
    def centre(self) -> int:
        """The view that leaves the image unchanged."""
        return (self.padding * (2 * self.padding + 1) + self.padding) * 2

    def at(self, index: Int64[Tensor, " batch"], view: Int64[Tensor, " batch"]) -> Shaped[Tensor, "batch c h w"]:
        """The images of given samples in given views."""
        if self._files is not None:
            stored = self._files.decode_batch(Request(tuple(index.tolist()))).to(self.device)
        else:
            stored = self._stored[index.to(self.device, non_blocking=True)]
        return self._augment(stored, view)

    def _order(self, epoch: int) -> Int64[Tensor, " all"]:
        order = torch.randperm(len(self.image_set), generator=generator(CPU, self.seed, "order", epoch))
        return order.repeat_interleave(self.repeats)[: len(order)] if self.repeats > 1 else order

    def _crop_seeds(self, part: Part, purpose: str) -> tuple[int, ...]:
        seed = derive(self.seed, purpose, part.epoch, part.step)
        return tuple((part.wanted + seed).tolist())

    def _read(self, wanted: Sequence[tuple[Tensor, tuple[int, ...] | None]]) -> Iterator[Tensor]:
        """The stored pixels of each request, on the device."""
        if self._loader is None:
            for index, _ in wanted:
                yield self._stored[index.to(self.device, non_blocking=True)]
            return
        requests = [Request(tuple(index.tolist()), crops) for index, crops in wanted]
        found = self._loader.read(requests)
        while True:
            asked = time.perf_counter()
            pixels = next(found, None)
            self.seconds_waited += time.perf_counter() - asked
            if pixels is None:
                return
            yield pixels.to(self.device, non_blocking=True)

    def _augment(self, pixels: Tensor, view: Tensor) -> Tensor:
        """Crop and flip stored pixels."""
        side = 2 * self.padding + 1
        place = view // 2
        parts = torch.stack([place // side, place % side, view % 2])  # on the CPU, and copied at once
        row, column, flipped = parts.to(self.device, non_blocking=True)
        if self.padding:
            height, width = pixels.shape[2:]
            crops = F.pad(pixels, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(len(pixels), device=self.device), :, row, column]
        return torch.where(flipped.bool().view(-1, 1, 1, 1), pixels.flip(3), pixels) if self.flip else pixels

    def _augmented(self, stored: Tensor, views: Tensor, part: Part) -> Tensor:
        """The wanted images of a part, cropped, flipped and augmented."""
        images = self._augment(stored, views[part.wanted])
        for place, augmentation in enumerate(self.augment):
            images = augmentation.apply(images, self._draws(part, "augment", place))
        return images

    def _strong(self, stored: Tensor, part: Part) -> Tensor:
        from tekapctl.data.augment.strong import augment_strongly  # torchvision is slow to import

        draws = self._draws(part, "strong augmentation")
        cropped = self._augment(stored, self._draw(len(part.index), draws.source)[part.wanted])
        return augment_strongly(cropped, draws)

    def _mixed(self, images: Tensor, strong: Tensor | None, views: Tensor, part: Part) -> Batch:
        """The batch of a part, with its images mixed."""
        index = part.index[part.rows]
        step, own_strong = part.epoch * len(self) + part.step, None if strong is None else strong[: len(index)]
        batch = self._batch(images[: len(index)], index, views[part.rows], step, part.shard)
        batch = replace(batch, strong=own_strong, share=part.share, ends_step=part.ends_step)
        if part.mix is None or part.partners is None:
            return batch
        partners = part.partners[part.rows]
        chosen = partners if len(part.wanted) == len(part.rows) else torch.arange(len(index), len(part.wanted))
        chosen = chosen.to(self.device, non_blocking=True)
        mixed, share = part.mix.mix(batch.images, images[chosen], self._draws(part, "mixing"))
        if strong is not None and batch.strong is not None:
            batch = replace(batch, strong=part.mix.mix(batch.strong, strong[chosen], self._draws(part, "mixing"))[0])
        others = part.index[partners].to(self.device, non_blocking=True)
        own, other = (
            F.one_hot(self.labels[index], len(self.image_set.classes)).float() for index in (batch.index, others)
        )
        if self._label_weights is not None:
            own = own * self._label_weights[batch.index].unsqueeze(1)
            other = other * self._label_weights[others].unsqueeze(1)
        return replace(batch, images=mixed, targets=own.lerp(other, 1 - share))

    def _draws(self, part: Part, purpose: str, *path: int) -> Draws:
        source = generator(CPU, self.seed, purpose, *path, part.epoch, part.step)
        return Draws(source, len(part.index), part.wanted)

    def _views(self, part: Part) -> Tensor:
        """The crops and flips of all images of a part's step."""
        return self._draw(len(part.index), generator(CPU, self.seed, "augmentation", part.epoch, part.step))

    def _draw(self, count: int, source: torch.Generator) -> Tensor:
        drawn = torch.randint(self.views, (count,), generator=source)
        return drawn if self.flip else drawn // 2 * 2

    def _batch(self, images: Tensor, index: Tensor, view: Tensor, step: int, shard: BatchShard = FULL_BATCH) -> Batch:
        source = self.image_set.source_index
        in_full_set = index if source is None else source[index]
        index = index.to(self.device, non_blocking=True)
        weights = None if self._label_weights is None else self._label_weights[index]
        return Batch(images, self.labels[index], index, in_full_set, view, step, label_weights=weights, shard=shard)
