"""The first singular vectors of feature maps, with a gradient that is finite where singular values are equal."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Rows = Float[Tensor, "batch places channels"]
Values = Float[Tensor, "batch _count"]
Vectors = Float[Tensor, "batch _c _count"]
_ROUNDS, _SQUARINGS = 3, 3
"""A Gram matrix is squared 9 times, which raises the ratio of two singular values to the power 1024."""
_FACTORS = 8
"""Of the product that stands for an inverse: it is as exact as 256 terms of the series."""


def leading_vectors(rows: Rows, count: int) -> tuple[Values, Vectors]:
    """The largest singular values and their right singular vectors, of about unit length.

    On CUDA they are found by a fixed number of products of matrices: a solver would make the host wait for its status,
    and no CUDA graph could hold it. Singular values that differ by less than a thousandth may then share their vectors.

    Raises:
        torch.linalg.LinAlgError: The decomposition of rows on the CPU fails.
    """
    return iterated(rows, count) if rows.is_cuda else decomposed(rows, count)


def decomposed(rows: Rows, count: int) -> tuple[Values, Vectors]:
    """By a complete singular value decomposition."""
    with torch.no_grad():
        _, values, transposed = torch.linalg.svd(rows, full_matrices=False)
    vectors, squares = transposed.mT, values.square()
    main = vectors[:, :, :count]
    change = _change(rows, main)
    among = vectors.mT @ change
    smallest = _smallest(squares)
    inside = _over(among, squares[:, None, :count] - squares[:, :, None], smallest)
    outside = _over(change - vectors @ among, squares[:, None, :count], smallest)
    return values[:, :count], main + vectors @ inside + outside


def iterated(rows: Rows, count: int) -> tuple[Values, Vectors]:
    """By powers of the Gram matrix, whose eigenvectors are found and removed one after the other."""
    _, places, channels = rows.shape
    count = min(count, places, channels)
    is_wide = places < channels
    needs_gradient = torch.is_grad_enabled() and rows.requires_grad
    with torch.no_grad():
        gram = rows @ rows.mT if is_wide else rows.mT @ rows
        found, squares, rest = _leading_eigenvectors(gram, count)
        main = F.normalize(rows.mT @ found, dim=1) if is_wide else found
        # The sign is arbitrary; maps behind a ReLU have a first vector of one sign.
        main = main * torch.where(main.sum(1, keepdim=True) < 0, -1.0, 1.0)
    values = squares.clamp(min=0).sqrt()
    if not needs_gradient:
        return values, main
    change = _change(rows, main)
    among = main.mT @ change
    inside = _over(among, squares[:, None, :] - squares[:, :, None], _smallest(squares))
    outside = change - main @ among
    if is_wide:
        solved = outside + rows.detach().mT @ _solved(rest, squares, rows.detach() @ outside)
        outside = _over(solved - main @ (main.mT @ solved), squares[:, None, :], _smallest(squares))
    else:
        outside = _solved(rest, squares, outside)
    return values, main + main @ inside + outside


def _change(rows: Rows, main: Vectors) -> Vectors:
    """Zeros with the gradient of the Gram matrix times the vectors, for perturbation theory.

    PyTorch's own gradient divides by the difference of each two singular values. It is NaN where two are equal, as in a
    map with two inactive channels. Here vectors of equal singular values do not contribute to each other's gradient.
    """
    product = rows.mT @ (rows @ main)
    return product - product.detach()


def _smallest(squares: Values) -> Float[Tensor, "batch 1 1"]:
    """The smallest difference of squares that rounding leaves meaningful."""
    return torch.finfo(squares.dtype).eps * squares[:, :1, None]


def _over(change: Tensor, gap: Tensor, smallest: Tensor) -> Tensor:
    """A change over a gap; 0 where the gap is closed."""
    is_open = gap.abs() > smallest
    return change * torch.where(is_open, 1 / torch.where(is_open, gap, 1.0), 0.0)


def _leading_eigenvectors(
    gram: Float[Tensor, "batch n n"], count: int
) -> tuple[Vectors, Values, Float[Tensor, "batch n n"]]:
    """The eigenvectors of the largest eigenvalues, these, and what is left of the matrix without them."""
    vectors: list[Tensor] = []
    values: list[Tensor] = []
    rest, tiny = gram, torch.finfo(gram.dtype).tiny
    for _ in range(count):
        power = rest
        for _ in range(_ROUNDS):
            power = power / torch.linalg.matrix_norm(power)[:, None, None].clamp(min=tiny)
            for _ in range(_SQUARINGS):
                power = power @ power
        # It is a multiple of v v^T now: its column with the largest entry on the diagonal is v's direction.
        largest = power.diagonal(dim1=1, dim2=2).argmax(1)
        vector = power.gather(2, largest[:, None, None].expand(-1, power.shape[1], 1))
        vector = F.normalize(rest @ vector, dim=1, eps=tiny)
        if vectors:
            others = torch.cat(vectors, dim=2)
            vector = F.normalize(torch.baddbmm(vector, others, others.mT @ vector, alpha=-1), dim=1)
        value = vector.mT @ (rest @ vector)
        rest = torch.baddbmm(rest, value * vector, vector.mT, alpha=-1)
        vectors.append(vector)
        values.append(value[:, 0])
    return torch.cat(vectors, dim=2), torch.cat(values, dim=1), rest


def _solved(rest: Float[Tensor, "batch n n"], squares: Values, change: Vectors) -> Vectors:
    """`(s I - rest)^-1 change` for each square `s` and its column, by `(1 + x)(1 + x^2)(1 + x^4)... = 1 / (1 - x)`."""
    with torch.no_grad():
        _, largest, _ = _leading_eigenvectors(rest, 1)
        noise = rest.shape[1] * _smallest(squares)  # larger than any eigenvalue that rounding makes
        scale = torch.maximum(largest[:, :, None], noise).clamp(min=torch.finfo(rest.dtype).tiny)
        power = rest / scale
        ratio = (scale / squares[:, None, :].clamp(min=scale)).clamp(max=1.0)
    found = _over(change, squares[:, None, :], _smallest(squares))
    for _ in range(_FACTORS):
        found = found + ratio * (power @ found)
        with torch.no_grad():
            power, ratio = power @ power, ratio.square()
    return found
