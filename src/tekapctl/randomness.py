"""Random numbers that depend only on a seed and a position in the run, not on earlier draws.

So a run can resume at any step of any epoch without the state of a generator.
"""

import hashlib
from collections.abc import Callable

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
    return torch.Generator(device).manual_seed(derive(seed, *path))


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

    Args:
        draw: Draws random numbers for a number of rows along `dim`.
        device: The device of the generator.
        first: Index of the first row in the batch.
        count: Number of rows.
        seed: The run's seed.
        path: The position in the run.
        dim: The dimension of the rows.
    """
    parts = []
    for part in range(first // ROWS, (first + max(count, 1) - 1) // ROWS + 1):
        drawn = draw(ROWS, generator(device, seed, *path, part))
        start = max(first - part * ROWS, 0)
        parts.append(drawn.narrow(dim, start, min(first + count - part * ROWS, ROWS) - start))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
