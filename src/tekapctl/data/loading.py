"""Decoding ahead of training, by processes of its own."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tekapctl.data.image_files import ImageFiles, Request, whole
from tekapctl.errors import TekapctlError

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
