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

    def pair_loss(self, number: int, student: Map, teacher: Map, batch: Batch) -> Float[Tensor, ""]:
        ours, theirs = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return torch.bmm(a, b.transpose(1, 2)).square().mean()

        return kernel(theirs, theirs).detach() + kernel(ours, ours) - 2 * kernel(ours, theirs)
