"""Methods without published numbers, against their papers' equations written plainly in double precision."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from conformance.inputs import batch_of, built, of_embedding, of_logits, of_maps
from tekapctl.distillation.methods.dist import DISTSpec
from tekapctl.distillation.methods.dkd import DKDSpec
from tekapctl.distillation.methods.feature_maps import Pairing
from tekapctl.distillation.methods.kdsvd import KDSVDSpec, main_directions
from tekapctl.distillation.methods.losses import standardized
from tekapctl.distillation.methods.mlkd import MLKDSpec, of_classes, of_samples
from tekapctl.distillation.methods.ofd import OFDSpec, partial_distance
from tekapctl.distillation.methods.pair import Warmup
from tekapctl.distillation.methods.pkt import PKTSpec
from tekapctl.distillation.methods.rkd import RKDSpec
from tekapctl.distillation.methods.rld import RLDSpec
from tekapctl.distillation.methods.vid import Predictor
from tekapctl.distillation.methods.wkd import distances, gaussians
from tekapctl.distributed.shard import FULL_BATCH
from tekapctl.models.knowledge import Knowledge


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pearson(one: list[float], other: list[float]) -> float:
    """Equation 5 of DIST."""
    mean, others = sum(one) / len(one), sum(other) / len(other)
    product = sum((a - mean) * (b - others) for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum((a - mean) ** 2 for a in one) * sum((b - others) ** 2 for b in other))


def test_dist_is_equations_8_to_10():
    student, teacher = random(6, 5).requires_grad_(), random(6, 5, seed=1)
    method = built(DISTSpec(between_weight=2.0, within_weight=3.0), of_logits(teacher))
    loss = method.loss(*(Knowledge(z, torch.zeros(6, 1)) for z in (student, teacher)), batch_of(torch.arange(6)))
    ours, theirs = ((z / 4).softmax(1) for z in (student.detach(), teacher))
    between = sum(1 - pearson(a.tolist(), b.tolist()) for a, b in zip(ours, theirs, strict=True)) / 6
    within = sum(1 - pearson(a.tolist(), b.tolist()) for a, b in zip(ours.T, theirs.T, strict=True)) / 5
    assert loss.item() == pytest.approx(16 * (2 * between + 3 * within))

    def of(z):
        return method.loss(Knowledge(z, z), Knowledge(teacher, teacher), batch_of(torch.arange(6)))

    assert torch.autograd.gradcheck(of, student)


def test_mlkd_is_its_three_levels_at_each_temperature():
    student, teacher, *strong = (random(6, 4, seed=seed) for seed in range(4))
    method = built(MLKDSpec(), of_logits(teacher))

    def of(student, strong_student):
        views = [Knowledge(z, z, strong=Knowledge(s, s)) for z, s in ((student, strong_student), (teacher, strong[1]))]
        return method.loss(*views, batch_of(torch.arange(6)))

    def divergence(p, q):
        return sum(b * math.log(b / a) for a, b in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True)) / 6

    def relations(rows):
        return [sum(a * b for a, b in zip(one, other, strict=True)) for one in rows for other in rows]

    def distance(ours, theirs):
        pairs = zip(relations(ours.tolist()), relations(theirs.tolist()), strict=True)
        return sum((a - b) ** 2 for a, b in pairs)

    expected = 0.0
    for t in (2, 3, 4, 5, 6):
        ours, theirs, *strongly = ((z / t).softmax(1) for z in (student, teacher, *strong))
        levels = distance(ours, theirs) / 6 + distance(ours.T, theirs.T) / 4
        # The published code masks one half of the weak views, after the mean.
        expected += 0.5 * (t**2 * divergence(ours, theirs) + levels)
        expected += t**2 * (divergence(*strongly) if t in (3, 4, 5) else divergence(ours, theirs))
    assert of(student, strong[0]).item() == pytest.approx(expected, rel=1e-5)  # kl computes in float32


def test_mlkds_gradients():
    student, teacher = random(6, 4).requires_grad_(), random(6, 4, seed=1)
    assert torch.autograd.gradcheck(lambda z: of_samples(z, teacher, 3.0), student)
    assert torch.autograd.gradcheck(lambda z: of_classes(z, teacher, 3.0), student)


def test_ofd_is_margin_relu_and_partial_distance():
    student, teacher = random(3, 2, 2, 2).requires_grad_(), random(3, 2, 2, 2, seed=1)
    margin = torch.tensor([-0.4, -0.7], dtype=torch.float64)
    expected = 0.0
    for place in torch.cartesian_prod(*map(torch.arange, teacher.shape)).tolist():
        s, t, m = student[tuple(place)].item(), teacher[tuple(place)].item(), margin[place[1]].item()
        target = max(t, m)
        expected += 0.0 if s <= target <= 0 else (s - target) ** 2
    assert partial_distance(student, teacher, margin).item() == pytest.approx(expected / 3)
    assert torch.autograd.gradcheck(lambda s: partial_distance(s, teacher, margin), student)


def test_ofds_margin_is_the_mean_of_the_negative_values_so_far():
    seen = [random(4, 3, 5, 5, seed=seed).float() for seed in range(3)]
    method = built(OFDSpec(), of_maps(before=[seen[0], seen[0][:, :2]]), of_maps(before=seen[:2]))
    for maps in seen:
        margin = method._margin(0, maps, FULL_BATCH)
    everything = torch.cat(seen).transpose(0, 1).flatten(1)
    assert_close(margin, torch.stack([channel[channel < 0].mean() for channel in everything]))
    method.eval()
    assert torch.equal(method._margin(0, -seen[0], FULL_BATCH), margin)


def test_standardized_logits_have_mean_0_and_deviation_1():
    logits = standardized(random(4, 3, 10) * 7 + 3)
    assert_close(logits.mean(-1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    assert_close(logits.std(-1), torch.ones(4, 3), atol=1e-5, rtol=0)


def test_maps_are_paired_from_the_last_and_pooled_to_the_smaller():
    ours = [torch.zeros(1, 2, size, size) for size in (16, 8, 4)]
    theirs = [torch.zeros(1, 3, size, size) for size in (16, 16, 8, 2)]
    assert [tuple(p.student.shape[2:]) for p in Pairing()(ours, theirs)] == [(16, 16), (8, 8), (2, 2)]
    assert all(p.student.shape[2:] == p.teacher.shape[2:] for p in Pairing(first=1)(ours, theirs))
    assert len(Pairing(first=1)(ours, theirs)) == 2


def test_a_warm_up_rises_by_epochs():
    weight = Warmup(epochs=4, steps=10)
    assert [weight(step) for step in (0, 9, 10, 35, 400)] == [0.25, 0.25, 0.5, 1.0, 1.0]
    assert Warmup(0, 10)(0) == 1
    assert [Warmup(4, 10, first=3)(step) for step in (0, 30, 40, 60, 70)] == [0.25, 0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kdsvd_of_maps_that_are_not_finite_is_no_number(value):
    def known(seed: int) -> Knowledge:
        feature_maps = tuple(random(3, 4, 5, 5, seed=seed + number).float() for number in range(3))
        return Knowledge(torch.zeros(3, 2), torch.zeros(3, 2), feature_maps)

    teacher, student = known(0), known(10)
    method = built(KDSVDSpec(), student, teacher)
    assert method.loss(student, teacher, batch_of(torch.arange(3))).isfinite()
    student.feature_maps[1][0, 0, 0, 0] = value
    assert method.loss(student, teacher, batch_of(torch.arange(3))).isnan()


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (2, 12, 3, 3)])
def test_singular_vectors_have_the_gradient_of_a_singular_value_decomposition(shape):
    maps = random(*shape).requires_grad_()
    slope = random(shape[0], shape[1], 4, seed=1)
    ours = main_directions(maps, 4)[1]
    theirs = torch.linalg.svd(maps.flatten(2).transpose(1, 2), full_matrices=False).Vh.mT[:, :, :4]
    assert_close(ours, theirs)
    found, expected = (torch.autograd.grad((each * slope).sum(), maps)[0] for each in (ours, theirs))
    assert_close(found, expected)


@pytest.mark.parametrize("off", [2, 5, 8])
def test_kdsvds_gradient_is_a_number_where_channels_are_off(off):
    student = [random(4, 8, 6, 6, seed=seed).float().relu() for seed in range(3)]
    teacher = [random(4, 8, 6, 6, seed=10 + seed).float().relu() for seed in range(3)]
    for maps in student:
        maps[:, :off] = 0
        maps.requires_grad_()
    networks = of_maps(student), of_maps(teacher)
    built(KDSVDSpec(), *networks).loss(*networks, batch_of(torch.arange(4))).backward()
    for maps in student[1:]:
        assert maps.grad is not None
        assert maps.grad.isfinite().all()
        assert maps.grad.abs().max() < 10
        assert maps.grad.any() == (off < 8)


@pytest.mark.parametrize("zeros", [1, 4])
def test_pkts_gradient_is_a_number_for_embeddings_of_zeros(zeros):
    student = random(4, 6)
    student[:zeros] = 0
    student.requires_grad_()
    networks = of_embedding(student), of_embedding(random(4, 6, seed=1))
    built(PKTSpec(), *networks).loss(*networks, batch_of(torch.arange(4))).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_batch_of_one_has_no_relations():
    student = random(1, 6).requires_grad_()
    networks = of_embedding(student), of_embedding(random(1, 6, seed=1))
    loss = built(RKDSpec(), *networks).loss(*networks, batch_of(torch.arange(1)))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("variance", [2e-5, 5.0, 1e3, 1e6])
def test_vid_starts_with_the_variance_it_is_given(variance):
    assert_close(F.softplus(Predictor(2, 3, variance).log_scale) + 1e-5, torch.full((3,), variance))


@pytest.mark.parametrize("spec", [DKDSpec(), RLDSpec()])
def test_a_single_class_has_nothing_to_learn(spec):
    student = random(3, 1).requires_grad_()
    networks = of_logits(student), of_logits(random(3, 1, seed=1))
    loss = built(spec, *networks).loss(*networks, batch_of(torch.arange(3)))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize(("height", "width", "grid"), [(7, 7, 4), (8, 6, 4), (5, 5, 3), (4, 2, 4), (8, 8, 1)])
def test_wkd_f_compares_the_cells_of_adaptive_pooling(height, width, grid):
    student, teacher = random(3, 4, height, width), random(3, 4, height, width, seed=1)
    size = (min(grid, height), min(grid, width))
    ours, theirs = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
    expected = (ours - theirs).square().sum(1).mean()
    assert_close(distances(gaussians(student, grid), gaussians(teacher, grid))[0], expected)


def test_wkd_f_finds_the_deviation_in_cells_that_overlap():
    student, teacher = random(2, 3, 5, 5), random(2, 3, 5, 5, seed=1)
    expected = 0.0
    for rows in (slice(0, 3), slice(2, 5)):
        for columns in (slice(0, 3), slice(2, 5)):
            ours, theirs = (maps[:, :, rows, columns].flatten(2) for maps in (student, teacher))
            expected += ((ours.var(2) + 1e-5).sqrt() - (theirs.var(2) + 1e-5).sqrt()).square().sum(1).mean() / 4
    assert_close(distances(gaussians(student, 2), gaussians(teacher, 2))[1], expected)
