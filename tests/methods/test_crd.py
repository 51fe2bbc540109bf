"""CRD: its estimate, its banks, and the controls of TeKAP at the feature level."""

import pytest
import torch
from torch.testing import assert_close

from conformance.test_losses import batch_of, knowledge
from tekapctl.errors import UsageError
from tekapctl.methods import contrast
from tekapctl.methods.crd import CRD, CRDSpec
from tekapctl.methods.negatives import ClassNegatives
from tekapctl.tekap import FeatureTekap, SeededNoise, Tekap, TekapSpec

SAMPLES, WIDTH = 60, 8
LABELS = torch.arange(SAMPLES) % 4


def crd(seed: int = 0, **settings) -> CRD:
    spec = CRDSpec(embedding_width=6, negatives=10, **settings)
    sampler = ClassNegatives(LABELS, spec.negatives, spec.mode, seed)
    return CRD(spec, student_width=WIDTH, teacher_width=WIDTH, samples=SAMPLES, sampler=sampler, seed=seed)


def features(seed: int) -> torch.Tensor:
    return torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))


def one_step(method: CRD, spec: FeatureTekap | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the gradient of the student's embedding."""
    student, teacher = knowledge(embedding=features(1).requires_grad_()), knowledge(embedding=features(2))
    settings = TekapSpec(feature=spec) if spec else TekapSpec().without()
    augmented = Tekap(settings, SeededNoise(settings, 0)).augment_features(teacher, 0)
    loss = method.augmented_loss(student, teacher, augmented, batch_of(torch.tensor([3, 9, 20, 41, 58])))
    loss.backward()
    return loss.detach(), student.embedding.grad


def test_the_estimate_matches_equation_17_in_double_precision():
    method, index = crd(), torch.tensor([3, 9, 20, 41, 58])
    drawn = method.sampler(index, 0)
    student = torch.nn.functional.normalize(method.project_student(features(1)).double(), dim=1)
    scores = torch.einsum("bkd,bd->bk", method.bank_teacher.double()[drawn], student) / method.spec.temperature
    scores = scores.exp() / (scores.exp().mean() * SAMPLES)
    noise = method.spec.negatives / SAMPLES
    positive = (scores[:, 0] / (scores[:, 0] + noise)).log()
    negative = (noise / (scores[:, 1:] + noise)).log().sum(1)
    loss = method.student_term(method.project_student(features(1)), drawn)
    assert_close(loss.double(), -(positive + negative).mean(), rtol=1e-4, atol=1e-4)


def test_gathering_entries_and_scoring_the_whole_bank_give_the_same(monkeypatch):
    bank = torch.nn.functional.normalize(torch.randn(50, 6), dim=1)
    drawn = torch.randint(50, (4, 12))
    found = []
    for sparse in (0, 10**9):
        monkeypatch.setattr(contrast, "SPARSE", sparse)
        embeddings = torch.nn.functional.normalize(torch.ones(4, 6).cumsum(0), dim=1).requires_grad_()
        loss, normalizer = contrast.contrast(embeddings, bank, drawn, torch.tensor(-1.0), 0.07)
        loss.backward()
        found.append((loss, normalizer, embeddings.grad))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


def test_the_gradient_found_on_the_way_is_that_of_the_loss():
    bank = torch.nn.functional.normalize(torch.randn(30, 6, dtype=torch.float64), dim=1)
    embeddings = torch.nn.functional.normalize(torch.randn(3, 6, dtype=torch.float64), dim=1).requires_grad_()
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
    assert_close(method.bank_teacher, plain.bank_teacher)
    assert_close(method.project_teacher.linear.weight.grad, plain.project_teacher.linear.weight.grad)

    only_updates = FeatureTekap(loss_weight=0, student_term_weight=0, teacher_share=1, noise_weight=0)
    method, plain = crd(), crd()
    (loss, gradient), (single_loss, single) = one_step(method, only_updates), one_step(plain)
    assert_close(loss, single_loss)
    assert_close(gradient, single)
    assert not torch.equal(method.bank_teacher, plain.bank_teacher)


def test_banks_stay_on_the_unit_sphere_and_move_only_where_the_batch_is():
    method = crd()
    before = method.bank_student.clone()
    one_step(method)
    moved = (method.bank_student != before).any(1).nonzero().flatten()
    assert moved.tolist() == [3, 9, 20, 41, 58]
    assert_close(method.bank_student[moved].norm(dim=1), torch.ones(5))


def test_the_normalizers_are_set_once_and_are_part_of_the_state():
    method = crd()
    one_step(method)
    kept = method.normalizer_student.clone()
    one_step(method)
    assert torch.equal(method.normalizer_student, kept)
    assert {"bank_student", "bank_teacher", "normalizer_student", "normalizer_teacher"} <= set(method.state_dict())


@pytest.mark.parametrize("mode", ["exact", "relax"])
def test_negatives_are_of_other_classes_without_repetition(mode):
    sampler = ClassNegatives(LABELS, 30, mode, seed=0)
    index = torch.arange(SAMPLES)
    drawn = sampler(index, step=4)
    assert drawn.shape == (SAMPLES, 31)
    assert (LABELS[drawn[:, 1:]] != LABELS[index].unsqueeze(1)).all()
    assert all(len(set(row.tolist())) == 30 for row in drawn[:, 1:])
    assert (LABELS[drawn[:, 0]] == LABELS[index]).all()
    assert torch.equal(drawn[:, 0], index) == (mode == "exact")
    assert torch.equal(drawn, sampler(index, step=4))
    assert not torch.equal(drawn, sampler(index, step=5))


def test_every_sample_of_the_other_classes_is_drawn_equally_often():
    sampler = ClassNegatives(LABELS, 15, "exact", seed=0)
    counts = torch.zeros(SAMPLES)
    for step in range(2000):
        counts += torch.bincount(sampler(torch.tensor([0]), step)[0, 1:], minlength=SAMPLES)
    others = counts[LABELS != 0]
    assert counts[LABELS == 0].sum() == 0
    expected = 2000 * 15 / 45
    assert ((others - expected).abs() < 5 * (expected * (1 - 15 / 45)) ** 0.5).all()


def test_too_few_other_samples_are_drawn_with_replacement():
    drawn = ClassNegatives(LABELS, 200, "exact", seed=0)(torch.tensor([0, 1]), 0)
    assert drawn.shape == (2, 201)
    assert (LABELS[drawn[:, 1:]] != torch.tensor([[0], [1]])).all()


def test_a_single_class_has_no_negatives():
    with pytest.raises(UsageError, match="single class"):
        ClassNegatives(torch.zeros(5, dtype=torch.long), 2, "exact", seed=0)
