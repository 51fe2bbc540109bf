"""WKD-F: at its last feature map the student, through a connector, is to have the teacher's means and deviations.

Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation", NeurIPS 2024,
section 3.2: the Wasserstein distance of two Gaussians with diagonal covariances, whose parts are weighed apart.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distill.methods import (
    METHODS,
    About,
    Batch,
    CosineDecay,
    Knowledge,
    Method,
    MethodSpec,
    Pair,
    Requires,
    Weights,
)
from tekapctl.distill.methods.feature_maps import Connector, Map, pair_maps
from tekapctl.settings import Weight

_EPS = 1e-5
"""Added to a variance before its square root is taken."""


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
    mean_weight: Weight = Field(4.0, description="Weight of the means' distance; that of the deviations' is 1.")
    grid: int = Field(1, ge=1, le=64, description="Cells per side of the map; mean and deviation are computed in each.")
    decay_start: float = Field(
        0.625, ge=0, le=1, description="Fraction of the epochs after which the weight falls to 0 by a cosine (150/240)."
    )

    def make(self, pair: Pair) -> "WKDF":
        """WKD-F for a pair of networks."""
        last = pair_maps(pair.student.feature_maps, pair.teacher.feature_maps, pooled=False)[-1]
        connector = Connector(last, relu=True)
        return WKDF(connector, self.mean_weight, self.grid, pair.cosine_decay(self.decay_start))


class WKDF(Method):
    """The distance of both maps' Gaussians.

    Args:
        connector: From the student's last map to the teacher's shape.
        mean_weight: Weight of the means' distance.
        grid: Cells a side.
        decay: How the weight falls.
    """

    couples_samples = False

    def __init__(self, connector: Connector, mean_weight: float, grid: int, decay: CosineDecay) -> None:
        super().__init__()
        self.connector = connector
        self.mean_weight = mean_weight
        self.grid = grid
        self.decay = decay

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Both parts, weighted."""
        means, deviations = distances(self.connector(student.feature_maps[-1]), teacher.feature_maps[-1], self.grid)
        return self.decay(batch.step) * (self.mean_weight * means + deviations)


def distances(student: Map, teacher: Map, grid: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The squared distances of the means and of the deviations: summed over channels, averaged over all cells."""
    ours, theirs = (cells(maps, grid) for maps in (student, teacher))

    def distance(of: Callable[[Tensor], Tensor]) -> Tensor:
        pairs = zip(ours, theirs, strict=True)
        return torch.stack([(of(one) - of(other)).square().sum(1).mean() for one, other in pairs]).mean()

    return distance(lambda pixels: pixels.mean(-1)), distance(deviation)


def cells(maps: Map, grid: int) -> list[Float[Tensor, "batch _c _pixels"]]:
    """The pixels of each cell of a grid, as in adaptive pooling: cells of a side that the grid does not divide overlap.

    A side of fewer pixels than cells has a cell for each pixel.
    """
    rows, columns = (spans(side, min(grid, side)) for side in maps.shape[2:])
    return [maps[:, :, row, column].flatten(2) for row in rows for column in columns]


def spans(side: int, count: int) -> list[slice]:
    """Where adaptive pooling to a size begins and ends."""
    return [slice(number * side // count, -(-(number + 1) * side // count)) for number in range(count)]


def deviation(pixels: Float[Tensor, "batch _c _pixels"]) -> Float[Tensor, "batch _c"]:
    """The standard deviation in a cell, from the unbiased variance; that of a single pixel is as of none."""
    variance = pixels.var(-1, correction=int(pixels.shape[-1] > 1))
    return (variance + _EPS).sqrt()
