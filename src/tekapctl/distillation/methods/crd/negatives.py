"""The samples that CRD contrasts each sample of a batch with."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tekapctl.errors import UsageError
from tekapctl.randomness import by_rows, derive

Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
SCARCE = 64
"""With more samples per draw than this, a random byte for each sample is not the cheapest way to choose."""


class ClassNegatives:
    """Negatives from all other classes, drawn again for each sample in each step, without replacement.

    If the other classes have too few samples, negatives are drawn with replacement, as published.

    Args:
        labels: The training set's labels.
        negatives: Number of negatives K of each sample.
        mode: `exact` takes the sample itself as the positive, `relax` any sample of its class.
        seed: The run's seed.

    Raises:
        UsageError: The set has a single class.
    """

    def __init__(
        self, labels: Int[Tensor, " samples"], negatives: int, mode: Literal["exact", "relax"], seed: int
    ) -> None:
        self.labels = labels.cpu().numpy()
        self.negatives = negatives
        self.mode = mode
        self.seed = seed
        self.by_class = np.argsort(self.labels, kind="stable")
        self.counts = np.bincount(self.labels)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        if int((self.counts > 0).sum()) < 2:
            raise UsageError(
                "CRD needs negatives, and the training set has a single class.",
                "Use another method, such as kd, or a dataset with more.",
            )
        self._tables: list[Tensor] = []

    def __call__(self, index: Int[Tensor, " batch"], step: int, first: int = 0) -> Int[Tensor, "batch draws"]:
        """For each sample its positive in column 0 and its negatives after it.

        Args:
            index: The samples.
            step: The step in the run.
            first: The first sample's place in the batch; the draws of a place are the same in any shard of the batch.
        """
        if index.device.type == "cpu":
            return self._draw_on_cpu(index.numpy(), step, first)
        return self._draw_on_device(index, step, first)

    def _draw_on_cpu(self, index: Numbers, step: int, first: int) -> Tensor:
        seed = derive(self.seed, "negatives", step)
        drawn = np.empty((len(index), self.negatives + 1), dtype=np.int64)
        drawn[:, 0] = index
        for place, (row, label) in enumerate(zip(drawn, self.labels[index].tolist(), strict=True), first):
            source = np.random.Generator(np.random.SFC64(seed + place))
            own = self.by_class[self.starts[label] : self.starts[label + 1]]
            row[1:] = self._draw_from_others(label, own, source)
            if self.mode == "relax":
                row[0] = own[source.integers(len(own))]
        return torch.from_numpy(drawn)

    def _draw_from_others(self, label: int, own: Numbers, source: np.random.Generator) -> Numbers:
        """Negatives for a sample of a class."""
        others = len(self.labels) - len(own)
        if self.negatives <= others < SCARCE * self.negatives:
            return draw_subset(len(self.labels), self.negatives, own, source)
        # Places count the samples in the order of their classes; skip the sample's own class.
        place = source.choice(others, self.negatives, replace=self.negatives > others, shuffle=False)
        place += (place >= self.starts[label]) * len(own)
        return self.by_class[place]

    def _draw_on_device(self, index: Tensor, step: int, first: int) -> Tensor:
        labels, counts, starts, by_class = self._tables_on(index.device)
        own = labels[index].unsqueeze(1)
        same = own == labels.unsqueeze(0)

        def chances(columns: int, *purpose: str) -> Tensor:
            def draw(rows: int, source: torch.Generator) -> Tensor:
                return torch.rand(rows, columns, generator=source, device=index.device)

            return by_rows(draw, index.device, first, len(index), self.seed, "negatives", *purpose, step)

        keys = chances(len(labels))
        if self.negatives > len(labels) - int(self.counts.max()):
            count = counts[own]
            others = len(labels) - count
            place = torch.minimum((chances(self.negatives, "again") * others).long(), others - 1)
            # As on the CPU: places in the order of the classes, without the sample's own class.
            place += (place >= starts[own]) * count
            drawn = by_class[place]
        else:
            drawn = keys.masked_fill(same, -1.0).topk(self.negatives, dim=1, sorted=False).indices
        positive = keys.masked_fill(~same, -1.0).argmax(1) if self.mode == "relax" else index
        return torch.cat([positive.unsqueeze(1), drawn], dim=1)

    def _tables_on(self, device: torch.device) -> list[Tensor]:
        """Labels, counts, starts and samples by class; copied once, since a copy makes the device wait."""
        if not self._tables or self._tables[0].device != device:
            arrays = (self.labels, self.counts, self.starts, self.by_class)
            self._tables = [torch.from_numpy(array).to(device) for array in arrays]
        return self._tables


def draw_subset(count: int, size: int, without: Numbers, source: np.random.Generator) -> Numbers:
    """A uniformly random subset of `0 .. count - 1`, ascending, so that memory is read in order.

    A random byte decides about each number with nearly the right probability. Then surplus numbers are removed at
    random, or missing ones added. This treats all subsets of the size alike, so it is exact.

    Args:
        count: Numbers to choose from.
        size: How many to choose.
        without: Numbers that may not be chosen, each once.
        source: The random numbers.
    """
    allowed = count - len(without)
    words = source.bit_generator.random_raw(-(-count // 8))
    chosen = words.view(np.uint8)[:count] < min(255, round(256 * size / allowed))
    chosen[without] = False
    found = np.flatnonzero(chosen)
    excess = len(found) - size
    if excess > 0:
        kept = np.ones(len(found), dtype=np.bool_)
        kept[source.choice(len(found), excess, replace=False, shuffle=False)] = False
        return found[kept]
    if excess < 0:
        rest = ~chosen
        rest[without] = False
        places = np.flatnonzero(rest)
        chosen[places[source.choice(len(places), -excess, replace=False, shuffle=False)]] = True
        return np.flatnonzero(chosen)
    return found
