"""Streams images from files: they are decoded when a batch needs them."""

import hashlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tekapctl.data.files.decoding import DamagedImageError, decode
from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError


@dataclass(frozen=True)
class Request:
    """Indices of files to decode together, and the seeds of their random crops; None for center crops."""

    numbers: tuple[int, ...]
    crops: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a set, in place of a tensor of pixels.

    Attributes:
        paths: The files.
        channels: 1 to convert them to grayscale, 3 for colour.
        size: Height and width in pixels to which they are resized.
        center_crop: Side length of the center crop, as a fraction of the largest one.
        repeated: How often the channels are repeated.
        workers: Number of decoding processes; 0 decodes in the training process.
        pixels: A file with the decoded center crops of a whole set, as bytes; None if there is none.
        rows: The images' places in it.
        stored: Number of images in it.
        unreadable: Files that could not be decoded for it, with the reason.
    """

    paths: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    center_crop: float = 1.0
    repeated: int = 1
    workers: int = 0
    pixels: str | None = None
    rows: tuple[int, ...] = ()
    stored: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor: images, channels, height, width."""
        return torch.Size((len(self.paths), self.channels * self.repeated, *self.size))

    def __getitem__(self, chosen: Tensor | slice) -> "ImageFiles":
        """A subset of the files."""
        if isinstance(chosen, slice):
            return replace(self, paths=self.paths[chosen], rows=self.rows[chosen])
        numbers = chosen.tolist()
        rows = tuple(self.rows[number] for number in numbers) if self.rows else ()
        return replace(self, paths=tuple(self.paths[number] for number in numbers), rows=rows)

    def with_paths(self, paths: tuple[str, ...]) -> "ImageFiles":
        """Other files, decoded in the same way; stored pixels are of the old ones."""
        return replace(self, paths=paths, pixels=None, rows=(), stored=0, unreadable=())

    def in_size(self, size: tuple[int, int]) -> "ImageFiles":
        """The same files in another size, which stored pixels do not have."""
        return replace(self.with_paths(self.paths), size=size)

    def expand(self, *sizes: int) -> "ImageFiles":
        """Repeat the channels, as `Tensor.expand` does; the other sizes are ignored."""
        return replace(self, repeated=sizes[1] // self.channels)

    def identify(self) -> bytes:
        """A digest that changes with any file; no pixel is read."""
        digest = hashlib.sha256(repr((self.channels, self.size, self.center_crop, self.repeated)).encode())
        for path in self.paths:
            found = Path(path).stat()
            digest.update(b"%s\0%d\0%d\n" % (os.fsencode(path), found.st_size, found.st_mtime_ns))
        return digest.digest()

    def are_unreadable(self, paths: Iterable[str]) -> bool:
        """Whether files still cannot be read, as a network drive may be back."""
        for path in paths:
            try:
                decode(path, self.channels, self.size)
            except DamagedImageError:
                continue
            return False
        return True

    def fetch(self, request: Request) -> tuple[UInt8[Tensor, "batch c h w"], tuple[tuple[str, str], ...]]:
        """Decode images, or read their stored pixels; unreadable ones are black and are listed with the reason."""
        if self.pixels is not None and request.crops is None:
            found = _mapped(self.pixels, (self.stored, self.channels, *self.size))[self._places(request)]
            unreadable = dict(self.unreadable)
            paths = [self.paths[number] for number in request.numbers] if unreadable else []
            damaged = [(path, unreadable[path]) for path in paths if path in unreadable]
            return found.repeat(1, self.repeated, 1, 1) if self.repeated > 1 else found, tuple(damaged)
        pixels = torch.zeros(len(request.numbers), *self.shape[1:], dtype=torch.uint8)
        damaged = []
        for place, number in enumerate(request.numbers):
            path, crop = self.paths[number], None if request.crops is None else request.crops[place]
            try:
                image = decode(path, self.channels, self.size, center_crop=self.center_crop, crop=crop)
                pixels[place] = image.repeat(self.repeated, 1, 1) if self.repeated > 1 else image
            except DamagedImageError as error:
                damaged.append((path, str(error)))
        return pixels, tuple(damaged)

    def _places(self, request: Request) -> Tensor:
        return torch.tensor([self.rows[number] for number in request.numbers])

    def decode_batch(self, request: Request) -> UInt8[Tensor, "batch c h w"]:
        """Decode images in this process, with one thread per core."""
        count = processors()
        if request.crops is not None or len(request.numbers) < 2 * count:
            return check_all(*self.fetch(request))
        pieces = [Request(request.numbers[first::count]) for first in range(count)]
        pixels = torch.empty(len(request.numbers), *self.shape[1:], dtype=torch.uint8)
        with ThreadPoolExecutor(count) as pool:
            for first, (found, damaged) in enumerate(pool.map(self.fetch, pieces)):
                pixels[first::count] = check_all(found, damaged)
        return pixels

    def batches(self, size: int = 64) -> Iterator[tuple[UInt8[Tensor, "batch c h w"], tuple[tuple[str, str], ...]]]:
        """Decode all images in order; yields pixels and unreadable files as `fetch` does."""
        requests = [Request(tuple(range(first, min(first + size, len(self))))) for first in range(0, len(self), size)]
        count = processors()
        with ThreadPoolExecutor(count) as pool:
            for first in range(0, len(requests), count):  # keeps only a few batches in memory
                yield from pool.map(self.fetch, requests[first : first + count])


@lru_cache(maxsize=8)
def _mapped(path: str, shape: tuple[int, ...]) -> UInt8[Tensor, "n c h w"]:
    """The pixels in a file, read from disk when they are needed."""
    return torch.from_file(path, shared=False, size=prod(shape), dtype=torch.uint8).view(shape)


def check_all(pixels: Tensor, damaged: Sequence[tuple[str, str]]) -> Tensor:
    """Return the pixels if no image is damaged.

    Raises:
        TekapctlError: An image is damaged.
    """
    if damaged:
        path, why = damaged[0]
        raise TekapctlError(
            f"The image {path} cannot be read: {why}.",
            "Replace it and resume the run with `tekapctl resume`, or start again with `data.skip_damaged=true`.",
        )
    return pixels


Found = tuple[Tensor, tuple[tuple[str, str], ...]]


class Loader:
    """Decodes images in the order of the requests; its worker processes persist over epochs."""

    def __init__(self, files: ImageFiles, *, pinned: bool) -> None:
        self._order: list[Request] = []
        self._loader = _loader(_Images(files), self._order, files.workers, pinned=pinned)

    def read(self, requests: Sequence[Request]) -> Iterator[UInt8[Tensor, "batch c h w"]]:
        """Yield the images of each request.

        Raises:
            TekapctlError: A file cannot be read, or a worker process has died.
        """
        self._order[:] = requests
        with _translating_worker_errors():
            found = _begin(self._loader)
        for _ in requests:
            with _translating_worker_errors():
                pixels, damaged = next(found)
            yield check_all(pixels, damaged)


Decoded = tuple[tuple[str, ...], Tensor, tuple[tuple[str, str], ...]]
"""Paths, their images `[batch, c, h, w]`, and the unreadable ones, which are black, with the reason."""


def stream_paths(paths: Iterable[str], like: ImageFiles, size: int, *, pinned: bool = False) -> Iterator[Decoded]:
    """Decode image files as `like` does, in batches and in order as paths come, a few batches ahead of the reader.

    Raises:
        TekapctlError: A worker process has died.
    """
    requested: deque[tuple[str, ...]] = deque()

    def requests() -> Iterator[tuple[str, ...]]:
        remaining = iter(paths)
        while batch := tuple(islice(remaining, size)):
            requested.append(batch)
            yield batch

    with _translating_worker_errors():
        found = _begin(_loader(_Paths(like), requests(), like.workers, pinned=pinned))
    while True:
        with _translating_worker_errors():
            decoded = next(found, None)
        if decoded is None:
            return
        yield (requested.popleft(), *decoded)


def _loader(dataset: Dataset[Found], order: Iterable[Any], workers: int, *, pinned: bool) -> DataLoader[Found]:
    return DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=_leave_signals_to_the_parent,
        persistent_workers=workers > 0,
        prefetch_factor=3 if workers else None,
    )


def _begin(loader: DataLoader[Found]) -> Iterator[Found]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    # PyTorch's handler would raise anywhere in the program when a worker dies; its queues notice the death anyway.
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def _translating_worker_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # EOFError: it died while it sent a batch
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise TekapctlError(
            f"A process that decodes images has died: {str(error).strip().rstrip('.') or 'no reason known'}.",
            "It may have run out of memory; resume the run with `tekapctl resume` where there is more.",
        ) from None


class _Images(Dataset[Found]):
    """Maps a request to its images."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, request: Request) -> Found:
        return self.files.fetch(request)


class _Paths(Dataset[Found]):
    """Maps paths to their images."""

    def __init__(self, like: ImageFiles) -> None:
        self.like = like

    def __getitem__(self, paths: tuple[str, ...]) -> Found:
        return replace(self.like, paths=paths).fetch(Request(tuple(range(len(paths)))))


def _unchanged(found: Any) -> Any:
    return found


def _leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C reaches all processes, but the training process finishes its step first and needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
