"""NST: match the distributions of the channels' activation patterns.

Huang and Wang, 2017: squared maximum mean discrepancy (equation 5) with the polynomial kernel of degree 2.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing

Patterns = Float[Tensor, "batch _c _places"]
"""Where each channel is active, as a unit vector."""


@METHODS.register("nst")
class NSTSpec(MethodSpec):
    """NST has no settings but its weight."""

    weights = Weights(beta=50.0)
    requires = Requires(feature_maps=True)
    about = About(
        "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
        2017,
        "sum over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t), k(a, b) = (a . b)^2 over channels' unit maps",
    )
    name: Literal["nst"] = "nst"

    def make(self, pair: Pair) -> "NST":
        return NST(self, pair)


class NST(FeatureMapMethod):
    """Maximum mean discrepancy between the channels' spatial patterns, over all stages but the first."""

    pairing = Pairing(first=1)

    def connect(self, number: int, student: Map) -> tuple[Patterns, Float[Tensor, ""]]:
        """The patterns, and the mean of their kernel."""
        ours = patterns(student)
        return ours, kernel(ours, ours)

    def pair_loss(
        self, number: int, ours: tuple[Patterns, Float[Tensor, ""]], teacher: Map, batch: Batch
    ) -> Float[Tensor, ""]:
        found, among = ours
        theirs = patterns(teacher)
        return kernel(theirs, theirs).detach() + among - 2 * kernel(found, theirs)


def patterns(maps: Map) -> Patterns:
    """The patterns of some maps."""
    return F.normalize(maps.flatten(2), dim=2)


def kernel(one: Patterns, other: Patterns) -> Float[Tensor, ""]:
    """The mean squared product of two networks' patterns."""
    return torch.bmm(one, other.transpose(1, 2)).square().mean()
