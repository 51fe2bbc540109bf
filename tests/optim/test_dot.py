"""DOT, against its equations."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tekapctl.distributed.communicator import SINGLE_PROCESS
from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.errors import UsageError
from tekapctl.optim import Optimizer, Trainable
from tekapctl.optim.dot import DOTSpec
from tekapctl.spec import parse


def losses(layer: nn.Linear, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
    out = layer(inputs)
    return out.square().mean(), (out - 1).abs().mean()


def dot(layer: nn.Linear, **settings) -> Optimizer:
    return DOTSpec(**settings).build([Trainable(parameter) for parameter in layer.parameters()], torch.device("cpu"))


def step(optimizer: Optimizer, task: torch.Tensor, distillation: torch.Tensor) -> None:
    optimizer.zero_grad()
    optimizer.backward({"cross_entropy": task, "kd": distillation}, DataParallelStep(nn.Identity(), SINGLE_PROCESS))
    optimizer.step()


def test_two_momenta_move_the_parameters():
    layer, delta, momentum, rate, decay = nn.Linear(3, 2), 0.2, 0.7, 0.1, 0.01
    optimizer = dot(layer, learning_rate=rate, momentum=momentum, weight_decay=decay, delta=delta)
    expected = [p.detach().clone() for p in layer.parameters()]
    task_buffers, distillation_buffers = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for number in range(4):
        task, distillation = losses(layer, number)
        of_task = torch.autograd.grad(task, list(layer.parameters()), retain_graph=True)
        of_distillation = torch.autograd.grad(distillation, list(layer.parameters()), retain_graph=True)
        for n, weight in enumerate(expected):
            task_buffers[n] = of_task[n] + decay * weight + (momentum - delta) * task_buffers[n]
            distillation_buffers[n] = of_distillation[n] + (momentum + delta) * distillation_buffers[n]
            expected[n] = weight - rate * (task_buffers[n] + distillation_buffers[n])
        step(optimizer, task, distillation)
        for found, weight in zip(layer.parameters(), expected, strict=True):
            assert_close(found.detach(), weight)


def test_without_a_difference_it_is_sgd():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    ours = dot(one, learning_rate=0.1, momentum=0.9, weight_decay=0.01, delta=0.0)
    sgd = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for number in range(4):
        step(ours, *losses(one, number))
        sgd.zero_grad()
        sum(losses(other, number)).backward()
        sgd.step()
    assert_close(one.weight, other.weight)


def test_momenta_outside_their_range_are_refused():
    with pytest.raises(UsageError, match="momentum - delta"):
        parse({"optimizer": {"momentum": 0.95, "name": "dot"}})


def test_parameters_that_a_stage_freezes_stay_as_they_are():
    layer = nn.Linear(3, 2)
    optimizer = dot(layer, learning_rate=0.1)
    layer.bias.requires_grad_(False)
    before = layer.bias.clone(), layer.weight.detach().clone()
    step(optimizer, *losses(layer, 0))
    assert torch.equal(layer.bias, before[0])
    assert not torch.equal(layer.weight, before[1])
