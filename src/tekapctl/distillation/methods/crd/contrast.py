"""Noise-contrastive estimation of embeddings against a memory bank, with its gradient computed in the forward pass.

No gradient reaches the bank. So the batch is scored against the whole bank with one matrix product, of which the drawn
columns are taken: that is several times faster than gathering K rows of the bank for each sample, and needs no
batch x K x width array. Only the embeddings' gradient is kept for the backward pass, and the bank may change at once.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPSILON = 1e-7
"""Keeps the estimate's denominators above zero, as published."""
SPARSE = 80
"""With more bank entries per draw than this, gathering the drawn ones is faster than scoring all: see
benchmarks/contrast.py."""
ROWS = 128
"""Embeddings scored with one matrix product: more need more memory and are no faster."""


@dataclass(frozen=True)
class Moved:
    """Entries of a bank that differ between teachers.

    Attributes:
        index: Which entries.
        rows: The entries that each teacher is contrasted with.
    """

    index: Int[Tensor, " batch"]
    rows: Float[Tensor, "teachers batch width"]


def contrast(
    embeddings: Float[Tensor, "teachers batch width"],
    bank: Float[Tensor, "samples width"],
    drawn: Int[Tensor, "batch draws"],
    normalizer: Float[Tensor, ""],
    temperature: float,
    moved: Moved | None = None,
) -> tuple[Float[Tensor, " teachers"], Float[Tensor, ""]]:
    """The loss of telling each embedding's positive (column 0 of `drawn`) from its negatives, for each teacher.

    With scores `p = exp(bank . embedding / temperature) / normalizer` and `c = K / samples` (K negatives under a
    uniform noise distribution) it is `-[log p0 / (p0 + c) + sum log c / (p + c)]`, averaged over the batch: equation 17
    of CRD as its authors compute it.

    Args:
        embeddings: Of unit length, for the teacher and each augmented teacher (or for the student alone).
        bank: Entries of unit length, unchanged.
        drawn: The entries that each sample's embeddings are scored against.
        normalizer: The normaliser; if it is negative, it is set from the first teacher's scores.
        temperature: The scores' temperature.
        moved: Entries of the bank that differ between teachers.

    Returns:
        The loss of each teacher, and the normaliser for later calls.
    """
    index, rows = (None, None) if moved is None else (moved.index, moved.rows)
    losses, settled = _Contrast.apply(embeddings, bank, drawn, normalizer, temperature, index, rows)
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
        index: Tensor | None,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        (teachers, batch, _), (samples, draws) = embeddings.shape, (len(bank), drawn.shape[1])
        score = _score_drawn if samples > SPARSE * draws else _score_all
        at_once = 1 if samples > SPARSE * draws else max(1, ROWS // batch)
        noise = (draws - 1) / samples
        losses, gradients = [], []
        for start in range(0, teachers, at_once):
            part = slice(start, start + at_once)
            ratios, pull = score(embeddings[part], bank, drawn, index, None if rows is None else rows[part])
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
        return gradient * gradients[0].view(-1, 1, 1), *[None] * 6


def _score_all(
    embeddings: Tensor, bank: Tensor, drawn: Tensor, index: Tensor | None, rows: Tensor | None
) -> tuple[Tensor, Any]:
    """Scores of the drawn entries, and what takes slopes of the scores to the embeddings' gradient."""
    teachers, batch, width = embeddings.shape
    everything = (embeddings.reshape(-1, width) @ bank.T).view(teachers, batch, -1)
    if index is not None and rows is not None:
        everything[:, :, index] = embeddings @ rows.transpose(1, 2)
    places = drawn.expand(teachers, -1, -1)
    scores = everything.gather(2, places)

    def pull(slope: Tensor) -> Tensor:
        spread = everything.zero_().scatter_add_(2, places, slope)
        gradient = (spread.view(teachers * batch, -1) @ bank).view_as(embeddings)
        if index is not None and rows is not None:
            gradient += spread[:, :, index] @ (rows - bank[index])
        return gradient

    return scores, pull


def _score_drawn(
    embeddings: Tensor, bank: Tensor, drawn: Tensor, index: Tensor | None, rows: Tensor | None
) -> tuple[Tensor, Any]:
    """The same from the drawn rows of the bank, for a single teacher."""
    if index is not None and rows is not None:
        kept = bank[index]
        bank[index] = rows[0]
        gathered = bank[drawn]
        bank[index] = kept
    else:
        gathered = bank[drawn]
    scores = torch.bmm(gathered, embeddings[0].unsqueeze(2)).squeeze(2).unsqueeze(0)

    def pull(slope: Tensor) -> Tensor:
        return torch.bmm(slope[0].unsqueeze(1), gathered).squeeze(1).unsqueeze(0)

    return scores, pull
