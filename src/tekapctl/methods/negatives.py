"""Which samples CRD contrasts each sample of a batch with."""

from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tekapctl.errors import UsageError
from tekapctl.randomness import derive, generator


@runtime_checkable
class ContrastSampler(Protocol):
    """Draws the samples that a batch is contrasted with."""

    def __call__(self, index: Int[Tensor, " batch"], step: int) -> Int[Tensor, "batch draws"]:
        """For each sample its positive in column 0 and its negatives behind it."""
        ...


class ClassNegatives:
    """Negatives from all other classes, drawn anew for each sample in each step, without replacement.

    Where the other classes hold fewer samples than are asked for, negatives are drawn with replacement, as published.

    Args:
        labels: The training set's labels.
        negatives: Number of negatives K of each sample.
        mode: `exact` takes the sample itself as the positive, `relax` any sample of its class.
        seed: The run's seed.

    Raises:
        UsageError: The set has one class only, so that there are no negatives.
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
                "Use --method kd or a data set of more.",
            )
        self._device_labels = labels

    def __call__(self, index: Int[Tensor, " batch"], step: int) -> Int[Tensor, "batch draws"]:
        """For each sample its positive in column 0 and its negatives behind it."""
        if index.device.type == "cpu":
            return self._draw_on_cpu(index.numpy(), step)
        return self._draw_on_device(index, step)

    def _draw_on_cpu(self, index: "np.ndarray[tuple[int], np.dtype[np.int64]]", step: int) -> Tensor:
        source = np.random.Generator(np.random.SFC64(derive(self.seed, "negatives", step)))
        labels = self.labels[index]
        others = len(self.labels) - self.counts[labels]
        drawn = np.empty((len(index), self.negatives + 1), dtype=np.int64)
        place = drawn[:, 1:]
        for row, count in enumerate(others.tolist()):
            if self.negatives > count:
                place[row] = source.integers(count, size=self.negatives, dtype=np.int32)
            else:
                place[row] = source.choice(count, self.negatives, replace=False, shuffle=False)
        # Places are among the samples in the order of their classes: step over the sample's own class.
        place += (place >= self.starts[labels][:, None]) * self.counts[labels][:, None]
        np.take(self.by_class, place, out=place)
        drawn[:, 0] = index
        if self.mode == "relax":
            drawn[:, 0] = self.by_class[self.starts[labels] + source.integers(self.counts[labels])]
        return torch.from_numpy(drawn)

    def _draw_on_device(self, index: Tensor, step: int) -> Tensor:
        self._device_labels = labels = self._device_labels.to(index.device)
        source = generator(index.device, self.seed, "negatives", step)
        keys = torch.rand(len(index), len(labels), generator=source, device=index.device)
        same = labels[index].unsqueeze(1) == labels.unsqueeze(0)
        if self.negatives > len(labels) - int(self.counts.max()):
            drawn = torch.multinomial((~same).float(), self.negatives, replacement=True, generator=source)
        else:
            drawn = keys.masked_fill(same, -1.0).topk(self.negatives, dim=1, sorted=False).indices
        positive = keys.masked_fill(~same, -1.0).argmax(1) if self.mode == "relax" else index
        return torch.cat([positive.unsqueeze(1), drawn], dim=1)
