"""Batches of images, cropped and flipped on the device; images are kept there or streamed from files."""

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
        index: The samples' indices in the image set.
        source_index: The samples' indices in the full set, of which the image set may be a subset; on the CPU.
        view: The crop and flip of each sample, `(row * (2 * padding + 1) + column) * 2 + flipped`; on the CPU.
        step: The optimiser step in the run, starting at 0.
        strong: The same samples in another crop and flip, strongly augmented; None if they were not requested.
        shard: This process's part of the batch of all processes.
    """

    images: Shaped[Tensor, "batch c h w"]
    labels: Int64[Tensor, " batch"]
    index: Int64[Tensor, " batch"]
    source_index: Int64[Tensor, " batch"]
    view: Int64[Tensor, " batch"]
    step: int
    strong: Shaped[Tensor, "batch c h w"] | None = None
    shard: BatchShard = FULL_BATCH

    def gather(self) -> "Batch":
        """The batch of all processes, for losses that compare its samples; its images are empty meta tensors."""
        shard = self.shard
        if shard.is_full_batch or shard.of is None:
            return self
        shape = self.images.shape[1:]
        return replace(
            self,
            images=torch.empty(shard.of, *shape, device="meta"),
            labels=shard.gather(self.labels),
            index=shard.gather(self.index),
            source_index=shard.gather(self.source_index),
            view=shard.gather(self.view),
            strong=None if self.strong is None else torch.empty(shard.of, *shape, device="meta"),
            shard=FULL_BATCH,
        )


class Batches:
    """An image set in batches.

    The usual augmentation for small images: a random crop of the zero-padded image and a flip with probability 0.5. All
    random numbers depend on seed, epoch and step alone and are drawn on the CPU, so every device sees the same batches.

    Args:
        image_set: The images.
        batch_size: Images per batch; the last batch of an epoch may be smaller.
        device: Where the images and the batches are.
        padding: Black pixels added on each side before cropping.
        flip: Whether images are flipped.
        random_resized_crop: Whether images are cropped as by torchvision's RandomResizedCrop when they are decoded;
            needs image files and no padding.
        seed: Seed of the order and the augmentation.
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
        random_resized_crop: bool = False,
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
        self.labels = image_set.labels.to(device)
        self.random_resized_crop = random_resized_crop
        self._files = image_set.images if isinstance(image_set.images, ImageFiles) else None
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

    def epoch(
        self, number: int, start_step: int = 0, end_step: int | None = None, *, strong: bool = False
    ) -> Iterator[Batch]:
        """The batches of an epoch in random order, or this process's shards of them.

        Args:
            number: The epoch, starting at 0.
            start_step: The first step.
            end_step: The step to stop before. Default: the end of the epoch.
            strong: Whether to add strongly augmented images.
        """
        indices = list(self._order(number).split(self.batch_size))[start_step:end_step]
        crops: list[tuple[str, ...]] = (
            [("crop",), ("strong crop",)] if strong and self.random_resized_crop else [("crop",)]
        )
        shards = [BatchShard.of_batch(len(index), self.comm) for index in indices]
        requests = [
            # The crop of each image has its own seed, by its position in the batch.
            (
                index[shard.rows],
                derive(self.seed, *purpose, number, step) + shard.first if self.random_resized_crop else None,
            )
            for step, (index, shard) in enumerate(zip(indices, shards, strict=True), start_step)
            for purpose in crops
        ]
        read = self._read(requests)
        for step, (index, shard) in enumerate(zip(indices, shards, strict=True), start_step):
            stored = next(read)
            views = self._draw_views(len(index), number, step)[shard.rows]
            batch = self._batch(stored, index[shard.rows], views, number * len(self) + step, shard)
            if strong:
                stored = next(read) if self.random_resized_crop else stored
                batch = replace(batch, strong=self._strong(stored, len(index), shard, number, step))
            yield batch

    @property
    def largest_shard(self) -> int:
        """The largest number of images that a process has in a batch."""
        count = min(self.batch_size, len(self.image_set))
        return max(end - first for first, end in spans(count, self.comm.world_size))

    def sample(self, count: int, *, strong: bool = False) -> Batch:
        """The first images of the first epoch as one batch of any size, without augmentation.

        Args:
            count: Number of images.
            strong: Whether to add "strongly augmented" images, which are the same ones here.
        """
        index = self._order(0)[:count]
        view = torch.full_like(index, self.centre)
        images = self.at(index, view)
        source = self.image_set.source_index
        on_device = index.to(self.device)
        return Batch(
            images,
            self.labels[on_device],
            on_device,
            index if source is None else source[index],
            view,
            step=0,
            strong=images if strong else None,
        )

    def in_order(self) -> Iterator[Batch]:
        """All samples once, in order, without augmentation; batches are dealt out to the processes in turn."""
        indices = torch.arange(len(self.image_set)).split(self.batch_size)[self.comm.rank :: self.comm.world_size]
        for step, stored in enumerate(self._read([(index, None) for index in indices])):
            yield self._batch(stored, indices[step], torch.full_like(indices[step], self.centre), step)

    def gather(self, rows: Float[Tensor, "own width"]) -> Float[Tensor, "all width"]:
        """Gather results that the processes computed for their batches `in_order`, in the order of the set.

        Args:
            rows: One row per sample of this process.
        """
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
        return torch.randperm(len(self.image_set), generator=generator(CPU, self.seed, "order", epoch))

    def _read(self, wanted: Sequence[tuple[Tensor, int | None]]) -> Iterator[Tensor]:
        """The stored pixels of each request, on the device."""
        if self._loader is None:
            for index, _ in wanted:
                yield self._stored[index.to(self.device, non_blocking=True)]
            return
        requests = [Request(tuple(index.tolist()), crop) for index, crop in wanted]
        for pixels in self._loader.read(requests):
            yield pixels.to(self.device, non_blocking=True)

    def _augment(self, pixels: Tensor, view: Tensor) -> Tensor:
        """Crop and flip stored pixels."""
        view = view.to(self.device, non_blocking=True)
        side = 2 * self.padding + 1
        place, flipped = view // 2, view % 2
        if self.padding:
            height, width = pixels.shape[2:]
            crops = F.pad(pixels, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(len(pixels), device=self.device), :, place // side, place % side]
        return torch.where(flipped.bool().view(-1, 1, 1, 1), pixels.flip(3), pixels) if self.flip else pixels

    def _strong(self, stored: Tensor, count: int, shard: BatchShard, epoch: int, step: int) -> Tensor:
        from tekapctl.data.augment.strong import augment_strongly  # torchvision is slow to import

        source = generator(CPU, self.seed, "strong augmentation", epoch, step)
        cropped = self._augment(stored, self._draw(count, source)[shard.rows])
        return augment_strongly(cropped, source, first=shard.first, of=count)

    def _draw_views(self, count: int, epoch: int, step: int) -> Tensor:
        return self._draw(count, generator(CPU, self.seed, "augmentation", epoch, step))

    def _draw(self, count: int, source: torch.Generator) -> Tensor:
        drawn = torch.randint(self.views, (count,), generator=source)
        return drawn if self.flip else drawn // 2 * 2

    def _batch(self, stored: Tensor, index: Tensor, view: Tensor, step: int, shard: BatchShard = FULL_BATCH) -> Batch:
        source = self.image_set.source_index
        in_full_set = index if source is None else source[index]
        index = index.to(self.device, non_blocking=True)
        return Batch(self._augment(stored, view), self.labels[index], index, in_full_set, view, step, shard=shard)
