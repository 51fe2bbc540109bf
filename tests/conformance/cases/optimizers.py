"""Optimisers."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn import functional as F

from conformance.registry import evaluates
from conformance.vectors import Case
from tekapctl.optim.dot import DOT


@evaluates("dot*")
def dot(x: Case) -> Iterator[tuple[str, Any]]:
    """Steps on a linear model: `both` has gradients of both losses, `task` and `kd` of one each."""
    both, task, kd = (nn.Parameter(x.at(f"parameter_{name}", 0)) for name in ("both", "task", "kd"))
    optimizer = DOT([both, task, kd], lr=1.0, momentum=x.momentum, weight_decay=x.weight_decay, delta=x.delta)
    yield "momentum_task", x.momentum - x.delta
    yield "momentum_kd", x.momentum + x.delta
    losses: dict[str, list[Any]] = {"losses_task": [], "losses_kd": []}
    for step, rate in enumerate(x.learning_rates):
        optimizer.param_groups[0]["lr"] = rate
        hidden = x.at("inputs", step) @ both.T
        of_task = F.cross_entropy(hidden @ task.T, x.at("labels", step))
        of_kd = F.mse_loss(hidden @ kd.T, x.at("targets", step))
        losses["losses_task"].append(of_task)
        losses["losses_kd"].append(of_kd)
        gradients = optimizer.backward(of_task, of_kd)
        for name, number in (("both", 0), ("task", 1)):
            yield f"grad_task_{name}_{step}", gradients[0][number]
        for name, number in (("both", 0), ("kd", 2)):
            yield f"grad_kd_{name}_{step}", gradients[1][number]
        optimizer.apply(gradients)
        for name, parameter in (("both", both), ("task", task), ("kd", kd)):
            yield f"parameter_{name}_{step + 1}", parameter
    yield from losses.items()
