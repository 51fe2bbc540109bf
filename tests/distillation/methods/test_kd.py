"""KD and TeKAP at the logit level: the identities that make many teachers cheap."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tekapctl.distillation.methods.losses import kl, kl_of_many

shapes = st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(2, 12))
seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.5, 10)


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(seeds, shapes, st.floats(0, 4), temperatures)
def test_pooled_targets_give_the_loss_and_gradient_of_the_sum_of_losses(seed, shape, weight, temperature):
    teachers, batch, classes = shape
    teacher = logits(seed, batch, classes)
    augmented = logits(seed + 1, teachers, batch, classes)
    pooled, summed = (logits(seed + 2, batch, classes).requires_grad_() for _ in range(2))

    one = kl_of_many(pooled, teacher, augmented, weight, temperature)
    many = kl(summed, teacher, temperature) + weight * sum(kl(summed, other, temperature) for other in augmented)
    one.backward()
    many.backward()

    assert_close(one, many, rtol=1e-4, atol=1e-4)
    assert_close(pooled.grad, summed.grad, rtol=1e-4, atol=1e-4)


@given(seeds, temperatures)
def test_kd_is_zero_only_where_the_student_agrees(seed, temperature):
    teacher = logits(seed, 4, 7)
    assert_close(kl(teacher + 5.0, teacher, temperature), torch.tensor(0.0), rtol=0, atol=1e-3)
    assert kl(logits(seed + 1, 4, 7), teacher, temperature) > 0


def test_kd_matches_its_formula_in_double_precision():
    student, teacher, temperature = logits(1, 8, 10), logits(2, 8, 10), 4.0
    p = (teacher.double() / temperature).softmax(1)
    q = (student.double() / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert_close(kl(student, teacher, temperature).double(), expected, rtol=1e-5, atol=1e-6)
