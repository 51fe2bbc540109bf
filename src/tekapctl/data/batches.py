"""Batches, cropped and flipped on the device, which holds the whole set or gets it from its files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

from tekapctl.data.files.streaming import ImageFiles, Loader, Request
from tekapctl.data.image_set import ImageSet
from tekapctl.distributed.communicator import SINGLE_PROCESS, Communicator
from tekapctl.distributed.shard import FULL_BATCH, BatchShard, spans
from tekapctl.randomness import derive, generator

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Some samples of an image set.

    Attributes:
        images: Augmented pixels, from 0 to 255; each network normalises them itself.
        labels: Class numbers.
        index: The samples' numbers in the set.
        number: The samples' numbers in the whole set, of which the image set may be a share; on the CPU.
        view: Which crop and flip of its image each sample is: `(row * (2 * padding + 1) + column) * 2 + flipped`; on
            the CPU.
        step: Number of the optimiser step in the run, from 0.
        strong: The same samples in another crop and flip, strongly augmented; None where they were not asked for.
        share: Which part of a batch of all processes this is.
    """

    images: Shaped[Tensor, "batch c h w"]
    labels: Int64[Tensor, " batch"]
    index: Int64[Tensor, " batch"]
    number: Int64[Tensor, " batch"]
    view: Int64[Tensor, " batch"]
    step: int
    strong: Shaped[Tensor, "batch c h w"] | None = None
    shard: BatchShard = FULL_BATCH

    def gather(self) -> "Batch":
        """The batch of all processes, for losses that compare its samples; nobody has all of its images."""
        shard = self.shard
        if shard.is_full_batch or shard.of is None:
            return self
        shape = self.images.shape[1:]
        return replace(
            self,
            images=torch.empty(shard.of, *shape, device="meta"),
            labels=shard.gather(self.labels),
            index=shard.gather(self.index),
            number=shard.gather(self.number),
            view=shard.gather(self.view),
            strong=None if self.strong is None else torch.empty(shard.of, *shape, device="meta"),
            shard=FULL_BATCH,
        )


class Batches:
    """An image set in batches.

    The published augmentation: a crop of the zero-padded image and a flip with probability one half. All random numbers
    depend on seed, epoch and step alone and are drawn on the CPU, so that every device sees the same batches.

    Args:
        image_set: The images.
        batch_size: Images in a batch; the last batch of an epoch may have fewer.
        device: Holds the set, and gets the batches.
        padding: Rows and columns of black pixels added at each side before cropping.
        flip: Whether images are flipped.
        recrop: Whether each epoch takes another random part of the files' images, brought to their size; there is no
            padding then.
        seed: Seed of order and augmentation.
        comm: The processes that share each batch.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        device: torch.device,
        padding: int,
        flip: bool,
        seed: int,
        recrop: bool = False,
        comm: Communicator = SINGLE_PROCESS,
    ) -> None:
        if recrop and (padding or not isinstance(image_set.images, ImageFiles)):
            raise ValueError("random parts are taken of files, without padding")
        self.image_set = image_set
        self.batch_size = batch_size
        self.device = device
        self.padding = padding
        self.flip = flip
        self.seed = seed
        self.comm = comm
        self.labels = image_set.labels.to(device)
        self.recrop = recrop
        self._files = image_set.images if isinstance(image_set.images, ImageFiles) else None
        self._loader = Loader(self._files, pinned=device.type == "cuda") if self._files else None
        self._stored = image_set.images.to(device) if isinstance(image_set.images, Tensor) else torch.empty(0)

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self.image_set) // self.batch_size)

    @property
    def views(self) -> int:
        """How many crops and flips an image has."""
        return (2 * self.padding + 1) ** 2 * 2

    @property
    def distinct_views(self) -> int:
        """How many of them training meets; without flips, half as many."""
        return self.views if self.flip else self.views // 2

    def epoch(
        self, number: int, start_step: int = 0, end_step: int | None = None, *, strong: bool = False
    ) -> Iterator[Batch]:
        """The batches of an epoch in random order, or this process's shares of them.

        Args:
            number: Of the epoch, from 0.
            start_step: The step to begin with.
            end_step: The step to end before; None for all.
            strong: Whether strongly augmented images are wanted as well.
        """
        indices = list(self._order(number).split(self.batch_size))[start_step:end_step]
        crops: list[tuple[str, ...]] = [("crop",), ("strong crop",)] if strong and self.recrop else [("crop",)]
        shards = [BatchShard.of_batch(len(index), self.comm) for index in indices]
        asked = [
            # Each image of a batch has a seed of its own, by its place.
            (index[shard.rows], derive(self.seed, *purpose, number, step) + shard.first if self.recrop else None)
            for step, (index, shard) in enumerate(zip(indices, shards, strict=True), start_step)
            for purpose in crops
        ]
        read = self._read(asked)
        for step, (index, shard) in enumerate(zip(indices, shards, strict=True), start_step):
            stored = next(read)
            views = self._draw_views(len(index), number, step)[shard.rows]
            batch = self._batch(stored, index[shard.rows], views, number * len(self) + step, shard)
            if strong:
                stored = next(read) if self.recrop else stored
                batch = replace(batch, strong=self._strong(stored, len(index), shard, number, step))
            yield batch

    @property
    def largest_share(self) -> int:
        """The most images that a process has of a batch."""
        count = min(self.batch_size, len(self.image_set))
        return max(end - first for first, end in spans(count, self.comm.size))

    def sample(self, count: int, *, strong: bool = False) -> Batch:
        """The first images of the first epoch as one batch of any size, not augmented; no process's share.

        Args:
            count: How many, at most all.
            strong: Whether the batch is to have strongly augmented images as well: the same ones stand in for them.
        """
        index = self._order(0)[:count]
        view = torch.full_like(index, self.centre)
        images = self.at(index, view)
        numbers = self.image_set.numbers
        on_device = index.to(self.device)
        return Batch(
            images,
            self.labels[on_device],
            on_device,
            index if numbers is None else numbers[index],
            view,
            step=0,
            strong=images if strong else None,
        )

    def in_order(self) -> Iterator[Batch]:
        """All samples once, in order, as they are; of several processes each has every so many-th batch."""
        indices = torch.arange(len(self.image_set)).split(self.batch_size)[self.comm.rank :: self.comm.size]
        for step, stored in enumerate(self._read([(index, None) for index in indices])):
            yield self._batch(stored, indices[step], torch.full_like(indices[step], self.centre), step)

    def of_all(self, rows: Float[Tensor, "own width"]) -> Float[Tensor, "all width"]:
        """What all processes found of their batches `in_order`, in the set's order.

        Args:
            rows: What this one found, sample by sample.
        """
        size = self.comm.size
        if size == 1:
            return rows
        samples = torch.arange(len(self.image_set)).split(self.batch_size)
        own = [torch.cat([torch.empty(0, dtype=torch.int64), *samples[rank::size]]) for rank in range(size)]
        found = torch.cat(self.comm.gather(rows, [len(numbers) for numbers in own]))
        return found[torch.cat(own).argsort().to(found.device)]

    def probe(self, count: int) -> Shaped[Tensor, "_count c h w"]:
        """The first images as they are."""
        index = torch.arange(min(count, len(self.image_set)))
        return self.at(index, torch.full_like(index, self.centre))

    @property
    def centre(self) -> int:
        """The view that is the image as it is."""
        return (self.padding * (2 * self.padding + 1) + self.padding) * 2

    def at(self, index: Int64[Tensor, " batch"], view: Int64[Tensor, " batch"]) -> Shaped[Tensor, "batch c h w"]:
        """The pixels of given samples in given views."""
        if self._files is not None:
            stored = self._files.now(Request(tuple(index.tolist()))).to(self.device)
        else:
            stored = self._stored[index.to(self.device, non_blocking=True)]
        return self._seen(stored, view)

    def _order(self, epoch: int) -> Int64[Tensor, " all"]:
        return torch.randperm(len(self.image_set), generator=generator(CPU, self.seed, "order", epoch))

    def _read(self, asked: Sequence[tuple[Tensor, int | None]]) -> Iterator[Tensor]:
        """The stored pixels of samples, request by request, on the device."""
        if self._loader is None:
            for index, _ in asked:
                yield self._stored[index.to(self.device, non_blocking=True)]
            return
        requests = [Request(tuple(index.tolist()), crop) for index, crop in asked]
        for pixels in self._loader.read(requests):
            yield pixels.to(self.device, non_blocking=True)

    def _seen(self, pixels: Tensor, view: Tensor) -> Tensor:
        """Stored pixels in given views."""
        view = view.to(self.device, non_blocking=True)
        side = 2 * self.padding + 1
        place, flipped = view // 2, view % 2
        if self.padding:
            height, width = pixels.shape[2:]
            crops = F.pad(pixels, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(len(pixels), device=self.device), :, place // side, place % side]
        return torch.where(flipped.bool().view(-1, 1, 1, 1), pixels.flip(3), pixels) if self.flip else pixels

    def _strong(self, stored: Tensor, count: int, shard: BatchShard, epoch: int, step: int) -> Tensor:
        from tekapctl.data.augment.strong import strengthen  # torchvision takes longer to import than all else

        source = generator(CPU, self.seed, "strong augmentation", epoch, step)
        seen = self._seen(stored, self._draw(count, source)[shard.rows])
        return strengthen(seen, source, first=shard.first, of=count)

    def _draw_views(self, count: int, epoch: int, step: int) -> Tensor:
        return self._draw(count, generator(CPU, self.seed, "augmentation", epoch, step))

    def _draw(self, count: int, source: torch.Generator) -> Tensor:
        drawn = torch.randint(self.views, (count,), generator=source)
        return drawn if self.flip else drawn // 2 * 2

    def _batch(self, stored: Tensor, index: Tensor, view: Tensor, step: int, shard: BatchShard = FULL_BATCH) -> Batch:
        numbers = self.image_set.numbers
        number = index if numbers is None else numbers[index]
        index = index.to(self.device, non_blocking=True)
        return Batch(self._seen(stored, view), self.labels[index], index, number, view, step, shard=shard)
