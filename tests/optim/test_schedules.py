"""Learning rate schedules, against PyTorch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.optim.schedules import SCHEDULES
from tekapctl.spec import parse

EPOCHS, STEPS = 10, 8


def torchs(name: str, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    schedulers, total = torch.optim.lr_scheduler, EPOCHS * STEPS
    match name:
        case "step":
            return schedulers.MultiStepLR(optimizer, [6 * STEPS, 8 * STEPS, 9 * STEPS], 0.1)
        case "cosine":
            return schedulers.CosineAnnealingLR(optimizer, total)
        case "linear":
            return schedulers.LinearLR(optimizer, 1.0, 0.0, total)
        case "constant":
            return schedulers.ConstantLR(optimizer, 1.0, total)
        case "one-cycle":
            # PyTorch's ends at the last step, ours after it.
            return schedulers.OneCycleLR(optimizer, 1.0, total_steps=total + 1)
    raise KeyError(name)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_it_is_pytorchs(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torchs(name, optimizer)
    schedule = SCHEDULES[name](**({"milestones": (0.6, 0.8, 0.9)} if name == "step" else {}))
    # PyTorch's one-cycle turns a step earlier.
    tolerance = 0.05 if name == "one-cycle" else 1e-6
    for step in range(EPOCHS * STEPS):
        expected = optimizer.param_groups[0]["lr"]
        assert schedule.factor(step / STEPS, EPOCHS) == pytest.approx(expected, abs=tolerance)
        optimizer.step()
        scheduler.step()


@given(st.sampled_from(SCHEDULES.names()), st.integers(0, 12), st.floats(0, 10, exclude_max=True))
def test_a_factor_is_from_0_to_1_and_warm_up_rises(name, warmup, epoch):
    schedule = SCHEDULES[name](warmup_epochs=warmup)
    assert 0 <= schedule.factor(epoch, EPOCHS) <= 1
    if epoch + 0.1 < warmup:
        assert schedule.factor(epoch, EPOCHS) < schedule.factor(epoch + 0.1, EPOCHS)


def test_a_run_scales_it_with_the_batch_size():
    spec = parse({"batch_size": 128, "optimizer": {"learning_rate": 0.2, "lr_batch_size": 64}, "schedule": "linear"})
    assert spec.rate(0.0) == pytest.approx(0.4)
    assert spec.rate(120.0) == pytest.approx(0.2)
