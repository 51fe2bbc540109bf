"""Noise-contrastive estimation of embeddings against a memory bank, its gradient found on the way.

No gradient reaches the bank. So the batch is scored against the whole bank with one matrix product, of which the drawn
columns are taken: that is several times faster than gathering K rows of the bank for each sample, and needs no
batch x K x width array. Only the embeddings' gradient is kept for the backward pass, and the bank may change at once.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-7
"""Keeps the estimate's denominators above zero, as published."""
SPARSE = 80
"""From so many bank entries a draw on, gathering the drawn beats scoring all: see benchmarks/contrast.py."""


def contrast(
    embeddings: Float[Tensor, "batch width"],
    bank: Float[Tensor, "samples width"],
    drawn: Int[Tensor, "batch draws"],
    normalizer: Float[Tensor, ""],
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of telling each embedding's positive (column 0 of `drawn`) from its negatives.

    With scores `p = exp(bank . embedding / temperature) / normalizer` and `c = K / samples` (K negatives under a
    uniform noise distribution) it is `-[log p0 / (p0 + c) + sum log c / (p + c)]`, averaged over the batch: equation 17
    of CRD as its authors compute it.

    Args:
        embeddings: Of unit length.
        bank: Entries of unit length; not changed here.
        drawn: The entries that each embedding is scored against.
        normalizer: The normaliser; where it is negative, it is set from these scores.
        temperature: The scores' temperature.

    Returns:
        The loss, and the normaliser as it is from now on.
    """
    loss, settled = _Contrast.apply(embeddings, bank, drawn, normalizer, temperature)
    return loss, settled


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, bank: Tensor, drawn: Tensor, normalizer: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        samples, (batch, draws) = len(bank), drawn.shape
        is_sparse = samples > SPARSE * draws
        if is_sparse:
            rows = bank[drawn]
            logits = torch.bmm(rows, embeddings.unsqueeze(2)).squeeze(2)
        else:
            everything = embeddings @ bank.T
            logits = everything.gather(1, drawn)
        scores = logits.div_(temperature).exp_()
        # Chosen on the device: asking whether it is set would stop the queue of kernels at every step.
        settled = torch.where(normalizer < 0, scores.mean() * samples, normalizer)
        scores = scores.div_(settled)
        noise = (draws - 1) / samples
        odds = scores + (noise + EPSILON)
        loss = odds.log().sum() - scores[:, 0].log().sum() - batch * (draws - 1) * math.log(noise)
        if embeddings.requires_grad:
            # d loss / d logit: p / (p + c) for negatives, and the same less one for the positive.
            slope = scores.div_(odds)
            slope[:, 0] -= 1
            slope.mul_(1 / (temperature * batch))
            if is_sparse:
                gradient = torch.bmm(slope.unsqueeze(1), rows).squeeze(1)
            else:
                gradient = everything.zero_().scatter_add_(1, drawn, slope) @ bank
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(settled)
        return loss / batch, settled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None
