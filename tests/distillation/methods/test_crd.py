"""CRD: its estimate, its banks, and the controls of TeKAP at the feature level."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from conformance.inputs import batch_of, of_embedding
from tekapctl.distillation.methods import Pair
from tekapctl.distillation.methods.crd import CRD, CRDSpec, _Unit, contrast
from tekapctl.distillation.methods.crd.negatives import ClassNegatives, draw_subset
from tekapctl.distillation.tekap import FeatureTekap, SeededNoise, Tekap, TekapSpec
from tekapctl.errors import UsageError

SAMPLES, WIDTH = 60, 8
LABELS = torch.arange(SAMPLES) % 4


def crd(seed: int = 0, **settings) -> CRD:
    probe = of_embedding(torch.zeros(2, WIDTH))
    return CRDSpec(embedding_width=6, negatives=10, **settings).build(Pair(probe, probe, LABELS, seed))


def features(seed: int) -> torch.Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))


def one_step(method: CRD, spec: FeatureTekap | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the gradient of the student's embedding."""
    student, teacher = of_embedding(features(1).requires_grad_()), of_embedding(features(2))
    settings = TekapSpec(feature=spec) if spec else TekapSpec().without()
    augmented = Tekap(settings, SeededNoise(settings, 0)).augment_features(teacher, 0)
    loss = method.augmented_loss(student, teacher, augmented, batch_of(torch.tensor([3, 9, 20, 41, 58])))
    loss.backward()
    return loss.detach(), student.embedding.grad


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_the_estimate_matches_equation_17_in_double_precision():
    method, index = crd(), torch.tensor([3, 9, 20, 41, 58])
    drawn = method.memory.sampler(index, 0)
    projected = method.project_student(features(1)).detach()
    student = torch.nn.functional.normalize(projected.double(), dim=1)
    scores = torch.einsum("bkd,bd->bk", method.memory.teacher.double()[drawn], student) / method.spec.temperature
    scores = scores.exp() / (scores.exp().mean() * SAMPLES)
    noise = method.spec.negatives / SAMPLES
    positive = (scores[:, 0] / (scores[:, 0] + noise)).log()
    negative = (noise / (scores[:, 1:] + noise)).log().sum(1)
    found = method.memory.terms(projected, projected.unsqueeze(0), batch_of(index, labels=LABELS[index]), updates=1)
    assert_close(found.student.double(), -(positive + negative).mean(), rtol=1e-5, atol=1e-5)


def test_gathering_entries_and_scoring_the_whole_bank_give_the_same(monkeypatch):
    bank, drawn = unit(50, 6), torch.randint(50, (4, 12))
    moved = contrast.Moved(torch.tensor([7, 3, 49, 12]), unit(3, 4, 6))
    vectors = unit(3, 4, 6)
    found = []
    for sparse in (0, 10**9):
        monkeypatch.setattr(contrast, "SPARSE", sparse)
        embeddings = vectors.clone().requires_grad_()
        losses, normalizer = contrast.contrast(embeddings, bank, drawn, torch.tensor(-1.0), 0.07, moved)
        (losses * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        found.append((losses, normalizer, embeddings.grad))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("rows", [1, 8, 10**6])
def test_views_together_give_what_each_gives_alone_against_its_own_bank(monkeypatch, rows):
    monkeypatch.setattr(contrast, "ROWS", rows)
    bank, drawn, index = unit(50, 6), torch.randint(50, (4, 12)), torch.tensor([7, 3, 49, 12])
    moved = contrast.Moved(index, unit(3, 4, 6))
    together = unit(3, 4, 6).requires_grad_()
    losses, _ = contrast.contrast(together, bank, drawn, torch.tensor(90.0), 0.07, moved)
    losses.sum().backward()
    for view in range(3):
        alone = together.detach()[view : view + 1].requires_grad_()
        loss, _ = contrast.contrast(alone, bank.index_copy(0, index, moved.rows[view]), drawn, torch.tensor(90.0), 0.07)
        loss.sum().backward()
        assert_close(losses[view], loss[0])
        assert_close(together.grad[view], alone.grad[0])


def test_the_gradient_found_on_the_way_is_that_of_the_loss():
    bank, embeddings = unit(30, 6).double(), unit(2, 3, 6).double().requires_grad_()
    drawn, normalizer = torch.randint(30, (3, 9)), torch.tensor(40.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: contrast.contrast(e, bank, drawn, normalizer, 0.3)[0], embeddings)


def test_published_tekap_doubles_the_students_gradient_and_the_noise_does_not_reach_it():
    _, plain = one_step(crd())
    _, augmented = one_step(crd(), FeatureTekap())
    _, noisier = one_step(crd(), FeatureTekap(noise_weight=5.0))
    assert_close(augmented, 2 * plain, rtol=1e-4, atol=1e-6)
    assert_close(noisier, augmented)


def test_each_effect_of_published_tekap_is_a_control_of_its_own():
    only_student_term = FeatureTekap(loss_weight=0, bank_updates=False)
    method, plain = crd(), crd()
    (_, doubled), (_, single) = one_step(method, only_student_term), one_step(plain)
    assert_close(doubled, 2 * single, rtol=1e-4, atol=1e-6)
    assert_close(method.memory.teacher, plain.memory.teacher)
    assert_close(method.project_teacher.linear.weight.grad, plain.project_teacher.linear.weight.grad)

    only_updates = FeatureTekap(loss_weight=0, student_term_weight=0, teacher_scale=1, noise_weight=0)
    method, plain = crd(), crd()
    (loss, gradient), (single_loss, single) = one_step(method, only_updates), one_step(plain)
    assert_close(loss, single_loss)
    assert_close(gradient, single)
    assert not torch.equal(method.memory.teacher, plain.memory.teacher)


def test_banks_stay_on_the_unit_sphere_and_move_only_where_the_batch_is():
    method = crd()
    before = method.memory.student.clone()
    one_step(method)
    moved = (method.memory.student != before).any(1).nonzero().flatten()
    assert moved.tolist() == [3, 9, 20, 41, 58]
    assert_close(method.memory.student[moved].norm(dim=1), torch.ones(5))


def test_the_normalizers_are_set_once_and_are_part_of_the_state():
    method = crd()
    one_step(method)
    kept = method.memory.normalizer_student.clone()
    one_step(method)
    assert torch.equal(method.memory.normalizer_student, kept)
    assert {"student", "teacher", "normalizer_student", "normalizer_teacher"} == set(method.memory.state_dict())


@pytest.mark.parametrize("mode", ["exact", "relax"])
@pytest.mark.parametrize("count", [2, 30, 43, 45])
def test_negatives_are_of_other_classes_without_repetition(mode, count):
    sampler = ClassNegatives(LABELS, count, mode, seed=0)
    index = torch.arange(SAMPLES)
    drawn = sampler(index, step=4)
    assert drawn.shape == (SAMPLES, count + 1)
    assert (LABELS[drawn[:, 1:]] != LABELS[index].unsqueeze(1)).all()
    assert all(len(set(row.tolist())) == count for row in drawn[:, 1:])
    assert (LABELS[drawn[:, 0]] == LABELS[index]).all()
    assert torch.equal(drawn[:, 0], index) == (mode == "exact")
    assert torch.equal(drawn, sampler(index, step=4))
    assert count == 45 or not torch.equal(drawn, sampler(index, step=5))


def test_every_sample_of_the_other_classes_is_drawn_equally_often():
    sampler = ClassNegatives(LABELS, 15, "exact", seed=0)
    counts = torch.zeros(SAMPLES)
    for step in range(2000):
        counts += torch.bincount(sampler(torch.tensor([0]), step)[0, 1:], minlength=SAMPLES)
    others = counts[LABELS != 0]
    assert counts[LABELS == 0].sum() == 0
    expected = 2000 * 15 / 45
    assert ((others - expected).abs() < 5 * (expected * (1 - 15 / 45)) ** 0.5).all()


def test_every_pair_of_numbers_is_in_a_subset_equally_often():
    source = np.random.default_rng(0)
    together = np.zeros((12, 12))
    for _ in range(20_000):
        chosen = draw_subset(12, 5, np.array([4, 7]), source)
        together[np.ix_(chosen, chosen)] += 1
    free = [n for n in range(12) if n not in (4, 7)]
    single, pairs = np.diag(together), together[np.triu_indices(12, 1)]
    assert pairs[pairs > 0].size == 45
    assert single[[4, 7]].sum() == 0
    assert abs(single[free] - 20_000 * 5 / 10).max() < 5 * (20_000 * 0.25) ** 0.5
    assert abs(pairs[pairs > 0] - 20_000 * (5 * 4) / (10 * 9)).max() < 5 * (20_000 * 0.22 * 0.78) ** 0.5


def test_a_queue_contrasts_with_the_last_samples_of_other_classes():
    method = crd(memory="queue")
    index = torch.tensor([3, 9, 20, 41, 58])
    for _ in range(3):
        one_step(method)
    memory = method.memory
    assert memory.labels.tolist() == [0] * 10, "fifteen samples have passed through ten places"
    assert int(memory.head) == 5
    of_student, of_teacher = unit(5, 6), unit(1, 5, 6)
    labels = torch.tensor([0, 0, 1, 2, 0])
    memory.labels.copy_(torch.arange(10) % 3)
    negatives = memory.labels != labels.unsqueeze(1)
    scores = (of_student.double() @ memory.teacher.double().T / 0.07).exp() / memory.normalizer_student.double()
    own = ((of_student * of_teacher[0]).sum(1).double() / 0.07).exp() / memory.normalizer_student.double()
    expected = -(own / (own + 1)).log() - ((1 / (scores + 1)).log() * negatives).sum(1)
    terms = memory.terms(of_student, of_teacher, batch_of(index, labels=labels), updates=1)
    assert_close(terms.student.double(), expected.mean(), rtol=1e-4, atol=1e-5)
    assert_close(memory.student[5:], of_student)
    assert_close(memory.labels[5:], labels)


def test_a_queue_trains_the_student_and_needs_no_room_for_samples():
    method = crd(memory="queue")
    _, gradient = one_step(method, FeatureTekap(teachers=3))
    assert gradient.abs().sum() > 0
    assert method.memory.student.shape == (10, 6)


def test_too_few_other_samples_are_drawn_with_replacement():
    drawn = ClassNegatives(LABELS, 200, "exact", seed=0)(torch.tensor([0, 1]), 0)
    assert drawn.shape == (2, 201)
    assert (LABELS[drawn[:, 1:]] != torch.tensor([[0], [1]])).all()


def test_a_single_class_has_no_negatives():
    with pytest.raises(UsageError, match="single class"):
        ClassNegatives(torch.zeros(5, dtype=torch.long), 2, "exact", seed=0)


@pytest.mark.parametrize(("count", "mode"), [(15, "exact"), (15, "relax"), (SAMPLES, "exact")])
def test_what_draws_on_a_device_look_up_goes_there_once(monkeypatch, count, mode):
    sampler, sent = ClassNegatives(LABELS, count, mode, seed=0), []
    from_numpy = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: sent.append(array.nbytes) or from_numpy(array))
    index = torch.tensor([3, 9, 20, 41, 58])
    first = sampler._draw_on_device(index, 0, 0)
    sent.clear()
    drawn = [sampler._draw_on_device(index, step, 0) for step in (0, 1, 2)]
    assert not sent
    assert torch.equal(drawn[0], first)
    assert not torch.equal(drawn[1], drawn[2])
    for row, label in zip(drawn[1], LABELS[index], strict=True):
        assert label not in LABELS[row[1:]]
        assert LABELS[row[0]] == label


@pytest.mark.parametrize("draws", [1, 2, 5, 64, 131])
@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
def test_joined_logarithms_are_those_of_each_ratio(draws, temperature):
    scores = (unit(2, 3, draws) / temperature).exp()
    expected = (scores.double() / 0.3).log1p().sum(2)
    found = contrast._ratios(scores, torch.tensor(0.3), 1 / temperature)
    assert found.joins == {0.02: 0, 0.07: 2, 1.0: 4}[temperature]
    assert_close(found.sum_of_log1p().double(), expected, rtol=1e-6, atol=1e-6)


def test_small_ratios_keep_their_digits():
    found = contrast._ratios(torch.full((1, 1, 4097), 1e-9), torch.tensor(1.0), 1.0)
    assert found.joins == 4
    assert_close(found.sum_of_log1p(), torch.tensor([[4096e-9]]), rtol=1e-5, atol=0)


def test_unit_rows_have_the_gradient_of_normalize():
    rows = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Unit.apply, rows)
    assert torch.equal(_Unit.apply(rows), torch.nn.functional.normalize(rows, dim=1, eps=1e-12))
