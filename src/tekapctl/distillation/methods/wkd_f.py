"""WKD-F: match the channel means and standard deviations of the last feature map, through a connector.

Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024,
section 3.2: the Wasserstein distance of two Gaussians with diagonal covariances, with a weight for each of its parts.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import (
    METHODS,
    About,
    Batch,
    Knowledge,
    Method,
    MethodSpec,
    Pair,
    Requires,
    Weights,
)
from tekapctl.distillation.methods.feature_maps import Connector, Map, MapPair
from tekapctl.settings import Weight

_EPS = 1e-5
"""Added to a variance before its square root."""


@METHODS.register("wkd-f")
class WKDFSpec(MethodSpec):
    """WKD-F's settings; the defaults are those published for resnet32x4 and resnet8x4."""

    weights = Weights(beta=0.08)
    requires = Requires(feature_maps=True)
    about = About(
        "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
        2024,
        "mean over samples and cells of [mean_weight * |m_t - m_s|^2 + |d_t - d_s|^2], m and d = means and deviations "
        "of each channel of the last map",
        "published for ShuffleV1 under wrn_40_2: beta 0.3, mean_weight 3, grid 4",
    )
    name: Literal["wkd-f"] = "wkd-f"
    mean_weight: Weight = Field(4.0, description="Weight of the distance of the means; the deviations have weight 1.")
    grid: int = Field(1, ge=1, le=64, description="Cells per side of the map, each with its mean and deviation.")
    decay_start: float = Field(
        0.625, ge=0, le=1, description="Fraction of the epochs after which the weight falls to 0 by a cosine (150/240)."
    )

    def make(self, pair: Pair) -> "WKDF":
        """WKD-F for a pair of networks."""
        return WKDF(self, pair)


class WKDF(Method):
    """The distance of both maps' Gaussians."""

    couples_samples = False

    def __init__(self, spec: WKDFSpec, pair: Pair) -> None:
        super().__init__()
        self.spec = spec
        self.decay = pair.cosine_decay(spec.decay_start)
        self.connector = Connector(MapPair(pair.student.feature_maps[-1], pair.teacher.feature_maps[-1]), relu=True)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, weighted."""
        ours, theirs = self.connector(student.feature_maps[-1]), teacher.feature_maps[-1]
        means, deviations = distances(ours, theirs, self.spec.grid)
        return self.decay(batch.step) * (self.spec.mean_weight * means + deviations)


def distances(student: Map, teacher: Map, grid: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Squared distances of means and of deviations, summed over channels, averaged over samples and cells."""
    ours, theirs = (cells(maps, grid) for maps in (student, teacher))

    def distance(of: Callable[[Tensor], Tensor]) -> Tensor:
        pairs = zip(ours, theirs, strict=True)
        return torch.stack([(of(one) - of(other)).square().sum(1).mean() for one, other in pairs]).mean()

    return distance(lambda pixels: pixels.mean(-1)), distance(deviation)


def cells(maps: Map, grid: int) -> list[Float[Tensor, "batch _c _pixels"]]:
    """The pixels of each cell of a grid. As in adaptive pooling, cells overlap if the grid does not divide the side.

    A side with fewer pixels than cells has one cell per pixel.
    """
    rows, columns = (spans(side, min(grid, side)) for side in maps.shape[2:])
    return [maps[:, :, row, column].flatten(2) for row in rows for column in columns]


def spans(side: int, count: int) -> list[slice]:
    """The bounds of the cells of adaptive pooling."""
    return [slice(number * side // count, -(-(number + 1) * side // count)) for number in range(count)]


def deviation(pixels: Float[Tensor, "batch _c _pixels"]) -> Float[Tensor, "batch _c"]:
    """The standard deviation in a cell, from the unbiased variance; a single pixel has variance 0."""
    variance = pixels.var(-1, correction=int(pixels.shape[-1] > 1))
    return (variance + _EPS).sqrt()
