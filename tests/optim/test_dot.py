"""DOT, against its equations."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tekapctl.errors import UsageError
from tekapctl.optim.dot import DOT
from tekapctl.spec import parse


def losses(layer: nn.Linear, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    out = layer(inputs)
    return out.square().mean(), (out - 1).abs().mean()


def test_two_momenta_move_the_parameters():
    layer, delta, momentum, rate, decay = nn.Linear(3, 2), 0.2, 0.7, 0.1, 0.01
    optimizer = DOT(layer.parameters(), lr=rate, momentum=momentum, weight_decay=decay, delta=delta)
    expected = [p.detach().clone() for p in layer.parameters()]
    task_buffers, distillation_buffers = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step in range(4):
        task, distillation = losses(layer, step)
        of_task = torch.autograd.grad(task, list(layer.parameters()), retain_graph=True)
        of_distillation = torch.autograd.grad(distillation, list(layer.parameters()), retain_graph=True)
        for n, weight in enumerate(expected):
            task_buffers[n] = of_task[n] + decay * weight + (momentum - delta) * task_buffers[n]
            distillation_buffers[n] = of_distillation[n] + (momentum + delta) * distillation_buffers[n]
            expected[n] = weight - rate * (task_buffers[n] + distillation_buffers[n])
        optimizer.apply(optimizer.backward(task, distillation))
        for found, weight in zip(layer.parameters(), expected, strict=True):
            assert_close(found.detach(), weight)


def test_without_a_difference_it_is_sgd():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    dot = DOT(one.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, delta=0.0)
    sgd = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(4):
        dot.apply(dot.backward(*losses(one, step)))
        sgd.zero_grad()
        sum(losses(other, step)).backward()
        sgd.step()
    assert_close(one.weight, other.weight)


def test_momenta_outside_their_range_are_refused():
    with pytest.raises(UsageError, match="dot_delta"):
        parse({"optimizer": {"momentum": 0.95, "dot_delta": 0.075}})
