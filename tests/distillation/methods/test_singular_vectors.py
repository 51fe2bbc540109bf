"""Singular vectors by iteration, as on CUDA, against a complete decomposition."""

import pytest
import torch
from torch.testing import assert_close

from conformance.inputs import built, labelled
from conformance.inputs import of_maps as of_maps_of
from helpers.emulated_cuda import emulated_cuda
from tekapctl.distillation.methods.kdsvd import KDSVDSpec
from tekapctl.distillation.methods.singular_vectors import decomposed, iterated


def of_maps(batch: int, places: int, channels: int, seed: int = 0) -> torch.Tensor:
    """Rows such as feature maps behind a ReLU, of single precision."""
    source = torch.Generator().manual_seed(seed)
    rows = torch.randn(batch, places, channels, generator=source)
    return (rows + 2 * torch.randn(batch, places, 1, generator=source)).relu()


SHAPES = [(4, 64, 16), (4, 64, 64), (3, 16, 96), (2, 256, 32)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_vectors_are_those_of_a_decomposition(shape):
    rows = of_maps(*shape)
    (values, vectors), (expected, theirs) = iterated(rows, 4), decomposed(rows, 4)
    assert_close(values, expected, rtol=1e-4, atol=1e-4)
    cosine = (vectors * theirs).sum(1).abs()
    assert cosine[:, 0].min() > 1 - 1e-5
    assert cosine.min() > 0.99, cosine
    assert_close(vectors.mT @ vectors, torch.eye(4).expand(shape[0], 4, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 4])
def test_the_gradient_is_that_of_a_decomposition(shape, count):
    rows = of_maps(*shape).double()
    rows += 3 * torch.randn(shape[0], shape[1], 6) @ torch.diag(torch.arange(6.0, 0, -1)) @ torch.randn(6, shape[2])
    found = []
    for way in (iterated, decomposed):
        leaf = rows.detach().requires_grad_()
        vectors = torch.nn.functional.normalize(way(leaf, count)[1], dim=1)
        # Whatever the vectors' signs are.
        slope = torch.randn(shape[2], shape[2], generator=torch.Generator().manual_seed(1)).double()
        ((vectors @ vectors.mT) * slope).sum().backward()
        found.append(leaf.grad)
    assert_close(*found, rtol=1e-3, atol=1e-6)


def test_maps_of_low_rank_have_finite_vectors_and_gradients():
    rows = of_maps(3, 36, 8)
    rows[:, :, :6] = 0
    rows[2] = 0
    rows.requires_grad_()
    values, vectors = iterated(rows, 4)
    assert values.isfinite().all()
    vectors.square().sum().backward()
    assert rows.grad.isfinite().all()


def test_equal_input_gives_equal_bits():
    rows = of_maps(4, 64, 16)
    assert torch.equal(iterated(rows, 4)[1], iterated(rows.clone(), 4)[1])


def test_the_loss_of_kdsvd_is_the_same_on_a_gpu():
    with emulated_cuda() as gpu:
        found = []
        for device in ("cpu", "cuda"):
            student, teacher = ([of_images(4, 8 * 2**n, 6, seed + n) for n in range(3)] for seed in (0, 10))
            leaves = [maps.to(device).requires_grad_() for maps in student]
            networks = of_maps_of(leaves), of_maps_of([maps.to(device) for maps in teacher])
            method = built(KDSVDSpec(), *networks).to(device)
            gpu.reset()
            loss = method.loss(*networks, labelled(torch.zeros(4).long()))
            loss.backward()
            assert not [event for event in gpu.events if event.waits]
            found.append([loss.cpu(), *(leaf.grad.cpu() for leaf in leaves[1:])])
        for one, other in zip(*found, strict=True):
            assert_close(one, other, rtol=2e-3, atol=1e-7)


def of_images(batch: int, channels: int, size: int, seed: int) -> torch.Tensor:
    return of_maps(batch, size**2, channels, seed).transpose(1, 2).unflatten(2, (size, size))
