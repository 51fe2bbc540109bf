"""ABKD against its equation: one sample by hand, the general formula, and the limits."""

import math

import pytest
import torch
from torch.testing import assert_close

from conformance.inputs import batch_of
from tekapctl.distillation.methods.abkd import ABKD, ABKDSpec, alpha_beta_divergence
from tekapctl.errors import UsageError
from tekapctl.models.knowledge import Knowledge
from tekapctl.spec import parse


def logits(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def divergence(alpha: float, beta: float) -> torch.Tensor:
    return alpha_beta_divergence(STUDENT, TEACHER, alpha, beta)


STUDENT, TEACHER = (logits(5, 7, seed=seed).log_softmax(1) for seed in (0, 1))
P, Q = TEACHER.exp(), STUDENT.exp()


def test_one_sample_by_hand():
    """p = (3/4, 1/4), q = (1/4, 3/4), alpha 1, beta 1: half the squared distance, (1/4 + 1/4) / 2."""
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert alpha_beta_divergence(student, teacher, 1.0, 1.0).item() == pytest.approx(0.25)
    # alpha 2, beta -1: p^2 / q = 9/4 and 1/12, 2 * p and -q sum to 1: [7/3 - 1] / 2.
    assert alpha_beta_divergence(student, teacher, 2.0, -1.0).item() == pytest.approx(2 / 3, rel=1e-6)
    # alpha 1/2, beta 1/2: -4 * (2 * sqrt(3) / 4 - 1).
    assert alpha_beta_divergence(student, teacher, 0.5, 0.5).item() == pytest.approx(4 - 2 * math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (2.0, -0.5), (-0.4, 1.5), (1.0, 1.0), (0.2, 0.7)])
def test_the_general_formula(alpha, beta):
    both = alpha + beta
    terms = P**alpha * Q**beta - alpha / both * P**both - beta / both * Q**both
    assert_close(divergence(alpha, beta), -terms.sum(1) / (alpha * beta))
    assert (divergence(alpha, beta) > 0).all()
    assert_close(alpha_beta_divergence(TEACHER, TEACHER, alpha, beta), torch.zeros(5, dtype=torch.float64))


def test_the_limits():
    assert_close(divergence(1.0, 0.0), (P * (P / Q).log()).sum(1))
    assert_close(divergence(0.0, 1.0), (Q * (Q / P).log()).sum(1))
    for a in (0.7, 2.0):
        assert_close(divergence(a, 0.0), (P**a * (P**a / Q**a).log() - P**a + Q**a).sum(1) / a**2)
        assert_close(divergence(0.0, a), (Q**a * (Q**a / P**a).log() - Q**a + P**a).sum(1) / a**2)
        assert_close(divergence(a, -a), ((Q**a / P**a).log() + P**a / Q**a - 1).sum(1) / a**2)
    assert_close(divergence(0.0, 0.0), (P / Q).log().square().sum(1) / 2)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.5, -0.5), (0.0, 0.0)])
def test_the_general_formula_goes_to_the_limits(alpha, beta):
    for step in (0.012, -0.012):
        assert_close(divergence(alpha + step, beta + 1.1 * step), divergence(alpha, beta), rtol=0.1, atol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.0, 0.0), (0.0, 1.0), (0.5, -0.25)])
def test_the_loss_is_the_mean_at_its_temperature(alpha, beta):
    student, teacher = logits(6, 5, seed=2).requires_grad_(), logits(6, 5, seed=3)

    def loss(student):
        views = [Knowledge(z, z) for z in (student, teacher)]
        return ABKD(ABKDSpec(teacher_exponent=alpha, student_exponent=beta)).loss(*views, batch_of(torch.arange(6)))

    softened = [(z / 4).softmax(1).log() for z in (student, teacher)]
    assert_close(loss(student), alpha_beta_divergence(*softened, alpha, beta).sum() / 6)
    assert torch.autograd.gradcheck(loss, student)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_probabilities_that_vanish_give_finite_losses_and_gradients(alpha, beta):
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    views = [Knowledge(z, z) for z in (student, torch.tensor([[-200.0, 0.0, 200.0]]))]
    loss = ABKD(ABKDSpec(teacher_exponent=alpha, student_exponent=beta, temperature=1.0)).loss(
        *views, batch_of(torch.arange(1))
    )
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("teacher", "student"), [(1.0, -1.0), (0.0, 0.0)])
def test_exponents_whose_sum_would_be_divided_by_are_refused(teacher, student):
    with pytest.raises(UsageError, match="divides the loss"):
        parse({"method": {"name": "abkd", "teacher_exponent": teacher, "student_exponent": student}})
