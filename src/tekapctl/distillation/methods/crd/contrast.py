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
_JOINS, _LARGEST = 4, 80.0
"""How often logarithms are joined at most, and the largest logarithm of a product; that of float32 is 88."""
ROWS = 128
"""Embeddings per matrix product: more need more memory and are no faster."""
_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's linear layer, in builds that have it."""


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
        scaled = embeddings / temperature
        losses, gradients = [], []
        for start in range(0, teachers, at_once):
            part = slice(start, start + at_once)
            scores, pull = score(scaled[part], bank, drawn, moved and Moved(moved.places, moved.rows[part]))
            scores.exp_()
            normalizer = _settled(normalizer, scores[0], samples)
            ratios = _ratios(scores, normalizer * (noise + EPSILON), 1 / temperature)
            loss = ratios.sum_of_log1p() - ratios.log_of_first()
            losses.append(loss.mean(1).add_((draws - 1) * math.log1p(EPSILON / noise)))
            if embeddings.requires_grad:
                # d loss / d logit: p / (p + c) for negatives, and the same less one for the positive.
                slope = ratios.values.div_(ratios.shifted)
                slope.select(2, 0).sub_(1 / ratios.factor)
                gradients.append(pull(slope).mul_(ratios.factor / (temperature * batch)))
        if gradients:
            ctx.save_for_backward(_joined(gradients))
        ctx.mark_non_differentiable(normalizer)
        return _joined(losses), normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].view(-1, 1, 1), *[None] * 5


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read(number: Tensor) -> float:
    """The value of a number on the CPU, which costs nothing there; an error for one on another device."""
    return float(number.numpy())


def _settled(normalizer: Tensor, scores: Tensor, samples: int) -> Tensor:
    """The normaliser, set from a teacher's scores if it is negative."""
    if normalizer.device.type == "cpu":
        return scores.mean() * samples if _read(normalizer) < 0 else normalizer.clone()
    # Chosen on the device: a check on the host would wait for the device in every step.
    return torch.where(normalizer < 0, scores.mean() * samples, normalizer)


class Ratios(NamedTuple):
    """The ratios `p / c`: `log(1 + p / c)` keeps the digits of small ones, which `log(p + c)` loses.

    Attributes:
        values: The ratios, but for a factor.
        factor: The factor; on the CPU it saves a pass over the values.
        shifted: `1 + factor * values`.
        joins: How often two logarithms can be joined before their argument may overflow.
    """

    values: Float[Tensor, "teachers batch draws"]
    factor: float
    shifted: Float[Tensor, "teachers batch draws"]
    joins: int

    def log_of_first(self) -> Float[Tensor, "teachers batch"]:
        """The logarithm of the positive's ratio."""
        first = self.values[:, :, 0]
        return (first if self.factor == 1 else first * self.factor).log()

    def sum_of_log1p(self) -> Float[Tensor, "teachers batch"]:
        """The sum of `log(1 + ratio)`.

        A logarithm takes as long as ten multiplications on a CPU, so pairs are joined first:
        `(1 + fa)(1 + fb) = 1 + f (a + b (1 + fa))`.
        """
        values, shifted, rest = self.values, self.shifted, None
        for _ in range(self.joins):
            half, odd = divmod(values.shape[2], 2)
            if odd:
                last = shifted[:, :, -1]
                rest = last if rest is None else rest * last
            values = torch.addcmul(values[:, :, :half], values[:, :, half : 2 * half], shifted[:, :, :half])
            shifted = torch.add(shifted.new_ones(()), values, alpha=self.factor)
        total = (values if self.factor == 1 else values * self.factor).log1p().sum(2)
        return total if rest is None else total + rest.log()


def _ratios(scores: Tensor, divisor: Tensor, most: float) -> Ratios:
    """The ratios of scores of at most `e^most` to a divisor; the scores are overwritten."""
    if divisor.device.type != "cpu":
        scores.div_(divisor)
        return Ratios(scores, 1.0, scores + 1, 0)
    value = _read(divisor)
    factor = 1 / value if value else math.inf
    shifted = torch.add(scores.new_ones(()), scores, alpha=factor)
    largest = 1.01 * most + math.log(factor) if 0 < factor < math.inf else math.inf
    joins = int(math.log2(_LARGEST / max(largest, 1.0))) if largest < _LARGEST else 0
    return Ratios(scores, factor, shifted, min(joins, _JOINS))


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The product of two matrices; on a CPU by oneDNN, which can be twice as fast as the default, MKL."""
    if _linear is None or one.device.type != "cpu" or one.dtype != torch.float32:
        return one @ other
    found: Tensor = _linear(one, other.T, None, "none", [], "")
    return found


Scores = tuple[Tensor, Callable[[Tensor], Tensor]]
"""The scores of the drawn entries, and a function from the scores' gradient to that of the embeddings."""


def _score_all(embeddings: Tensor, bank: Tensor, drawn: Tensor, moved: Moved | None) -> Scores:
    teachers, batch, width = embeddings.shape
    everything = _product(embeddings.reshape(-1, width), bank.T).view(teachers, batch, -1)
    if moved is not None:
        everything.index_copy_(2, moved.places, embeddings @ moved.rows.transpose(1, 2))
    places = drawn.expand(teachers, -1, -1)
    scores = everything.gather(2, places)

    def pull(slope: Tensor) -> Tensor:
        spread = everything.zero_().scatter_add_(2, places, slope)
        gradient = _product(spread.view(teachers * batch, -1), bank).view_as(embeddings)
        if moved is not None:
            gradient.baddbmm_(spread.index_select(2, moved.places), moved.rows - bank[moved.places])
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
