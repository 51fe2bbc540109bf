"""Random numbers that depend only on a seed and a position in the run, not on earlier draws.

So a run can resume at any step of any epoch without the state of a generator.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ROWS = 64
"""Number of rows of a batch whose random numbers are drawn together."""


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for a position in a run, such as `("augmentation", epoch, step)`."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device, seed: int, *path: str | int) -> torch.Generator:
    """A generator on the device, seeded for a position in a run."""
    if _recorded is not None and device.type != "cpu":
        return _recorded.generator(device, seed, path)
    return torch.Generator(device).manual_seed(derive(seed, *path))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's CPU generator, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Step(int):
    """The number of a step, as the part of a position that changes when a recorded step is replayed."""


class RecordedGenerators:
    """The generators of a step that is recorded as a CUDA graph, seeded again before each replay.

    A graph may only draw from generators that are registered with it before it is recorded. So a step is taken first
    to find the positions that it draws for.

    Attributes:
        all: The generators, in the order in which the step asks for them.
    """

    def __init__(self) -> None:
        self._positions: list[tuple[int, tuple[str | int, ...]]] = []
        self.all: list[torch.Generator] = []
        self._asked: int | None = None

    @contextmanager
    def finding(self) -> Iterator[None]:
        """Note the positions that are drawn for on a device in this context."""
        self._positions, self._asked = [], None
        with _recording(self):
            yield

    @contextmanager
    def recording(self, device: torch.device) -> Iterator[None]:
        """In this context `generator` returns generators that can be seeded again, in the order of the positions."""
        self.all, self._asked = [torch.Generator(device) for _ in self._positions], 0
        with _recording(self):
            yield

    def seed(self, step: int) -> None:
        """Seed all generators for a step; this is work of the host alone."""
        for source, (seed, path) in zip(self.all, self._positions, strict=True):
            source.manual_seed(derive(seed, *(step if isinstance(part, Step) else part for part in path)))

    def generator(self, device: torch.device, seed: int, path: tuple[str | int, ...]) -> torch.Generator:
        """The generator for a position.

        Raises:
            RuntimeError: A recorded step asks for other positions than the step before it.
        """
        if self._asked is None:
            self._positions.append((seed, path))
            return torch.Generator(device).manual_seed(derive(seed, *path))
        number, self._asked = self._asked, self._asked + 1
        if number == len(self.all) or _without_step(seed, path) != _without_step(*self._positions[number]):
            raise RuntimeError("the step draws other random numbers than the one before it")
        return self.all[number]


_recorded: RecordedGenerators | None = None


@contextmanager
def _recording(recorded: RecordedGenerators) -> Iterator[None]:
    global _recorded
    _recorded = recorded
    try:
        yield
    finally:
        _recorded = None


def _without_step(seed: int, path: tuple[str | int, ...]) -> tuple[str | int | None, ...]:
    return (seed, *(None if isinstance(part, Step) else part for part in path))


def by_rows(
    draw: Callable[[int, torch.Generator], Tensor],
    device: torch.device,
    first: int,
    count: int,
    seed: int,
    *path: str | int,
    dim: int = 0,
) -> Tensor:
    """Random numbers for some rows of a batch that do not depend on which other rows are drawn.

    `draw` makes the numbers of so many rows, along `dim`, with a generator that is seeded for the `path`.
    """
    parts = []
    for part in range(first // ROWS, (first + max(count, 1) - 1) // ROWS + 1):
        drawn = draw(ROWS, generator(device, seed, *path, part))
        start = max(first - part * ROWS, 0)
        parts.append(drawn.narrow(dim, start, min(first + count - part * ROWS, ROWS) - start))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
