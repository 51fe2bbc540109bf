"""Noise-contrastive estimation of embeddings against a memory bank, with its gradient computed in the forward pass.

The bank has no gradient. So one matrix product scores the batch against the whole bank, and the drawn columns are
taken from it: several times faster than gathering K rows of the bank for each sample, and without an array of batch x K
x width. Only the embeddings' gradient is kept for the backward pass, so the bank may change at once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-7
"""Keeps the estimate's denominators above zero, as published."""
SPARSE = 80
"""With more bank entries per draw than this, gathering the drawn ones is faster than scoring all
(benchmarks/contrast.py)."""
ROWS = 128
"""Embeddings per matrix product: more need more memory and are no faster."""


class Moved(NamedTuple):
    """Entries of a bank that differ between teachers.

    Attributes:
        places: Which entries.
        rows: The entries that each teacher is contrasted with.
    """

    places: Int[Tensor, " batch"]
    rows: Float[Tensor, "teachers batch width"]


def contrast(
    embeddings: Float[Tensor, "teachers batch width"],
    bank: Float[Tensor, "samples width"],
    drawn: Int[Tensor, "batch draws"],
    normalizer: Float[Tensor, ""],
    temperature: float,
    moved: Moved | None = None,
) -> tuple[Float[Tensor, " teachers"], Float[Tensor, ""]]:
    """The loss of each embedding's positive (column 0 of `drawn`) against its negatives, for each teacher.

    With scores `p = exp(bank . embedding / temperature) / normalizer` and `c = K / samples` (K negatives under a
    uniform noise distribution) it is `-[log p0 / (p0 + c) + sum log c / (p + c)]`, averaged over the batch: equation 17
    of CRD as its authors compute it.

    Args:
        embeddings: Of unit length: those of the teacher and each augmented teacher, or the student's alone.
        bank: Entries of unit length, unchanged.
        drawn: The entries that each sample's embeddings are scored against.
        normalizer: The normaliser; if it is negative, it is set from the first teacher's scores.
        temperature: The scores' temperature.
        moved: Entries of the bank that differ between teachers.

    Returns:
        The loss of each teacher, and the normaliser for later calls.
    """
    losses, settled = _Contrast.apply(embeddings, bank, drawn, normalizer, temperature, moved)
    return losses, settled


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        bank: Tensor,
        drawn: Tensor,
        normalizer: Tensor,
        temperature: float,
        moved: Moved | None,
    ) -> tuple[Tensor, Tensor]:
        (teachers, batch, _), (samples, draws) = embeddings.shape, (len(bank), drawn.shape[1])
        score, at_once = (_score_drawn, 1) if samples > SPARSE * draws else (_score_all, max(1, ROWS // batch))
        noise = (draws - 1) / samples
        losses, gradients = [], []
        for start in range(0, teachers, at_once):
            part = slice(start, start + at_once)
            ratios, pull = score(embeddings[part], bank, drawn, moved and Moved(moved.places, moved.rows[part]))
            ratios.mul_(1 / temperature).exp_()
            # Chosen on the device: a check on the host would synchronize the device in every step.
            normalizer = torch.where(normalizer < 0, ratios[0].mean() * samples, normalizer)
            ratios.div_(normalizer * (noise + EPSILON))  # p / c: log1p of it keeps the digits that log(p + c) loses
            loss = ratios.log1p().sum((1, 2)) - ratios[:, :, 0].log().sum(1)
            losses.append(loss / batch + (draws - 1) * math.log1p(EPSILON / noise))
            if embeddings.requires_grad:
                # d loss / d logit: p / (p + c) for negatives, and the same less one for the positive.
                slope = ratios.div_(ratios + 1)
                slope[:, :, 0] -= 1
                gradients.append(pull(slope).mul_(1 / (temperature * batch)))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        ctx.mark_non_differentiable(normalizer)
        return torch.cat(losses), normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].view(-1, 1, 1), *[None] * 5


Scores = tuple[Tensor, Callable[[Tensor], Tensor]]
"""The scores of the drawn entries, and a function from the scores' gradient to that of the embeddings."""


def _score_all(embeddings: Tensor, bank: Tensor, drawn: Tensor, moved: Moved | None) -> Scores:
    teachers, batch, width = embeddings.shape
    everything = (embeddings.reshape(-1, width) @ bank.T).view(teachers, batch, -1)
    if moved is not None:
        everything[:, :, moved.places] = embeddings @ moved.rows.transpose(1, 2)
    places = drawn.expand(teachers, -1, -1)
    scores = everything.gather(2, places)

    def pull(slope: Tensor) -> Tensor:
        spread = everything.zero_().scatter_add_(2, places, slope)
        gradient = (spread.view(teachers * batch, -1) @ bank).view_as(embeddings)
        if moved is not None:
            gradient += spread[:, :, moved.places] @ (moved.rows - bank[moved.places])
        return gradient

    return scores, pull


def _score_drawn(embeddings: Tensor, bank: Tensor, drawn: Tensor, moved: Moved | None) -> Scores:
    """The same from the drawn rows of the bank, for a single teacher."""
    if moved is None:
        gathered = bank[drawn]
    else:
        kept = bank[moved.places]
        bank[moved.places] = moved.rows[0]
        gathered = bank[drawn]
        bank[moved.places] = kept
    scores = torch.bmm(gathered, embeddings[0].unsqueeze(2)).squeeze(2).unsqueeze(0)

    def pull(slope: Tensor) -> Tensor:
        return torch.bmm(slope[0].unsqueeze(1), gathered).squeeze(1).unsqueeze(0)

    return scores, pull
