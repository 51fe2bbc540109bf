"""Images that stay in their files until a batch asks for them."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tekapctl.data.files.decoding import DamagedImageError, decode
from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError


@dataclass(frozen=True)
class Request:
    """Images that are asked for together.

    Attributes:
        numbers: Which images, by their places among the files.
        crop: Seed of their random parts; their middle is taken if None.
    """

    numbers: tuple[int, ...]
    crop: int | None = None


@dataclass(frozen=True)
class ImageFiles:
    """Files that are images of a set; takes the place of a tensor of pixels.

    Attributes:
        paths: The files.
        channels: 1 for grey, 3 for colour, to which they are converted.
        size: Height and width in pixels, to which they are brought.
        middle: How much of the largest middle part is taken, as a share of its side.
        repeated: How often the channels are repeated.
        workers: How many processes decode; 0 for none but the one that trains.
    """

    paths: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    middle: float = 1.0
    repeated: int = 1
    workers: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> torch.Size:
        """As a tensor's: images, channels, height, width."""
        return torch.Size((len(self.paths), self.channels * self.repeated, *self.size))

    def __getitem__(self, chosen: Tensor | slice) -> "ImageFiles":
        """Some of the files, still files."""
        if isinstance(chosen, slice):
            return replace(self, paths=self.paths[chosen])
        return replace(self, paths=tuple(self.paths[number] for number in chosen.tolist()))

    def expand(self, *sizes: int) -> "ImageFiles":
        """The same images in more channels; what else a tensor can expand is one already."""
        return replace(self, repeated=sizes[1] // self.channels)

    def identify(self) -> bytes:
        """What changes with any file; no pixel is read."""
        digest = hashlib.sha256(repr((self.channels, self.size, self.middle, self.repeated)).encode())
        for path in self.paths:
            found = Path(path).stat()
            digest.update(b"%s\0%d\0%d\n" % (os.fsencode(path), found.st_size, found.st_mtime_ns))
        return digest.digest()

    def decode(self, number: int, crop: int | None = None) -> UInt8[Tensor, "c h w"]:
        """One image.

        Args:
            number: Its place among the files.
            crop: Seed of a random part; the middle is taken if None.

        Raises:
            DamagedImageError: The file cannot be read.
        """
        pixels = decode(self.paths[number], self.channels, self.size, middle=self.middle, crop=crop)
        return pixels.repeat(self.repeated, 1, 1) if self.repeated > 1 else pixels

    def fetch(self, request: Request) -> tuple[UInt8[Tensor, "batch c h w"], tuple[tuple[str, str], ...]]:
        """Images as asked for, black where a file cannot be read, and which files these are and why."""
        pixels = torch.zeros(len(request.numbers), *self.shape[1:], dtype=torch.uint8)
        damaged = []
        for place, number in enumerate(request.numbers):
            try:
                pixels[place] = self.decode(number, None if request.crop is None else request.crop + place)
            except DamagedImageError as error:
                damaged.append((self.paths[number], str(error)))
        return pixels, tuple(damaged)

    def now(self, request: Request) -> UInt8[Tensor, "batch c h w"]:
        """Images as asked for, decoded here by all processors.

        Raises:
            TekapctlError: A file cannot be read.
        """
        count = processors()
        if request.crop is not None or len(request.numbers) < 2 * count:
            return whole(*self.fetch(request))
        pieces = [Request(request.numbers[first::count]) for first in range(count)]
        pixels = torch.empty(len(request.numbers), *self.shape[1:], dtype=torch.uint8)
        with ThreadPoolExecutor(count) as pool:
            for first, (found, damaged) in enumerate(pool.map(self.fetch, pieces)):
                pixels[first::count] = whole(found, damaged)
        return pixels

    def every(self, together: int = 64) -> Iterator[tuple[UInt8[Tensor, "batch c h w"], tuple[tuple[str, str], ...]]]:
        """All images in order, so many at a time, with what cannot be read."""
        requests = [
            Request(tuple(range(first, min(first + together, len(self))))) for first in range(0, len(self), together)
        ]
        count = processors()
        with ThreadPoolExecutor(count) as pool:
            for first in range(0, len(requests), count):  # no more in memory than is being worked on
                yield from pool.map(self.fetch, requests[first : first + count])


def whole(pixels: Tensor, damaged: Sequence[tuple[str, str]]) -> Tensor:
    """The pixels, of which none may be missing.

    Raises:
        TekapctlError: Some are.
    """
    if damaged:
        path, why = damaged[0]
        raise TekapctlError(
            f"The image {path} cannot be read: {why}.",
            "Replace it and `tekapctl resume` the run, or begin anew with --set data.skip_damaged=true.",
        )
    return pixels


_AHEAD = 3
"""Batches that each process has ready."""

Found = tuple[Tensor, tuple[tuple[str, str], ...]]


class Loader:
    """Reads images in the order in which they are asked for; its processes stay from one epoch to the next.

    Args:
        files: The images.
        pinned: Whether batches are put where a GPU can fetch them by itself.
    """

    def __init__(self, files: ImageFiles, *, pinned: bool) -> None:
        self._files = files
        self._order = _Order()
        self._loader: DataLoader[Found] = DataLoader(
            _Images(files),
            sampler=self._order,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=files.workers,
            pin_memory=pinned,
            worker_init_fn=_leave_signals_to_the_parent,
            persistent_workers=files.workers > 0,
            prefetch_factor=_AHEAD if files.workers else None,
        )

    def read(self, requests: Sequence[Request]) -> Iterator[UInt8[Tensor, "batch c h w"]]:
        """The images of each request, in turn.

        Raises:
            TekapctlError: A file cannot be read, or a process has died.
        """
        self._order.requests = requests
        with _deaths_in_words():
            found = self._begin()
        for _ in requests:
            with _deaths_in_words():
                pixels, damaged = next(found)
            yield whole(pixels, damaged)

    def _begin(self) -> Iterator[Found]:
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
            return iter(self._loader)
        # The library would raise wherever the program is when a process dies; it looks by itself when it waits for one.
        before = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(self._loader)
        finally:
            signal.signal(signal.SIGCHLD, before)


@contextmanager
def _deaths_in_words() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # the latter where it dies while it hands over a batch
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise TekapctlError(
            f"A process that decodes images has died: {str(error).strip().rstrip('.') or 'it left no word'}.",
            "It may have had too little memory: `tekapctl resume` the run where there is more.",
        ) from None


class _Order(Sampler[Request]):
    """What is asked for, one request after the other."""

    def __init__(self) -> None:
        self.requests: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _Images(Dataset[Found]):
    """What a request brings."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, request: Request) -> Found:
        return self.files.fetch(request)


def _as_it_is(found: Any) -> Any:
    """The library would convert what needs no conversion."""
    return found


def _leave_signals_to_the_parent(_: int) -> None:
    """A terminal's Ctrl-C reaches all processes; the one that trains finishes its step first and needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
