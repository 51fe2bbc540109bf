"""Optimizers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.distributed.communicator import SINGLE_PROCESS
from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.optim import Trainable
from tekapctl.optim.dot import DOT, DOTSpec


@evaluates("dot*")
def dot(x: Case) -> Iterator[tuple[str, Any]]:
    """Steps on a linear model: `both` has gradients of both losses, `task` and `kd` of one each."""
    both, task, kd = (nn.Parameter(x.at(f"parameter_{name}", 0)) for name in ("both", "task", "kd"))
    spec = DOTSpec(momentum=x.momentum, weight_decay=x.weight_decay, delta=x.delta)
    optimizer = spec.build([Trainable(both), Trainable(task), Trainable(kd)], torch.device("cpu"))
    assert isinstance(optimizer, DOT)
    yield "momentum_task", x.momentum - x.delta
    yield "momentum_kd", x.momentum + x.delta
    losses: dict[str, list[Any]] = {"losses_task": [], "losses_kd": []}
    for step, rate in enumerate(x.learning_rates):
        optimizer.set_learning_rate(rate)
        hidden = x.at("inputs", step) @ both.T
        of_task = F.cross_entropy(hidden @ task.T, x.at("labels", step))
        of_kd = F.mse_loss(hidden @ kd.T, x.at("targets", step))
        losses["losses_task"].append(of_task)
        losses["losses_kd"].append(of_kd)
        optimizer.zero_grad()
        optimizer.backward({"cross_entropy": of_task, "kd": of_kd}, DataParallelStep(nn.Identity(), SINGLE_PROCESS))
        for name, number in (("both", 0), ("task", 1)):
            yield f"grad_task_{name}_{step}", optimizer.task_gradients[number]
        for name, number in (("both", 0), ("kd", 2)):
            yield f"grad_kd_{name}_{step}", optimizer.distillation_gradients[number]
        optimizer.step()
        for name, parameter in (("both", both), ("task", task), ("kd", kd)):
            yield f"parameter_{name}_{step + 1}", parameter
    yield from losses.items()
