"""DOT: more momentum for the distillation loss than for the task loss.

Zhao, Cui, Song and Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, equations 8 to 10.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trainable

Gradients = list[Tensor | None]


class DOT(Optimizer):
    """SGD with a momentum buffer for each loss: `momentum - delta` for the task's, `momentum + delta` for the other.

    Weight decay is part of the task's gradient. With delta 0 it is SGD of the summed loss. A parameter with a gradient
    of one loss only, such as a connector's, is trained by plain SGD with `momentum`, as in the published code.

    Args:
        groups: Parameter groups with `lr` and `weight_decay`.
        momentum: Momentum before adding or subtracting delta.
        delta: Added to the distillation loss's momentum, subtracted from the task's; both must stay in [0, 1).

    Attributes:
        task_gradients: The cross-entropy's gradient of each parameter.
        distillation_gradients: The gradient of the sum of all other losses.
    """

    is_recordable = True

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, delta: float) -> None:
        super().__init__(groups, {"momentum": momentum, "delta": delta})
        self.task_gradients: Gradients
        self.distillation_gradients: Gradients
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        count = len(self._trained())
        self.task_gradients, self.distillation_gradients = [None] * count, [None] * count

    def backward(self, parts: dict[str, Tensor], parallel: DataParallelStep) -> None:
        """Two backward passes, for the cross-entropy and for the sum of all other losses."""
        zero = torch.zeros((), device=next(iter(parts.values())).device)
        task = parts.get("cross_entropy", zero)
        others = [value for name, value in parts.items() if name != "cross_entropy"]
        distillation = torch.stack(others).sum() if others else zero
        # Either may be constant: a cross-entropy with weight 0, or a method without a loss.
        of_task = self._gradients(task, keep=distillation.requires_grad)
        of_distillation = self._gradients(distillation, keep=False)
        for gradients in (of_task, of_distillation):
            parallel.average(gradients)
        self.task_gradients = _added(self.task_gradients, of_task)
        self.distillation_gradients = _added(self.distillation_gradients, of_distillation)

    @torch.no_grad()
    def clip(self, max_norm: float) -> None:
        """Scale both gradients so that the L2 norm of their sum is at most `max_norm`."""
        sums = [each for each in _added(self.task_gradients, self.distillation_gradients) if each is not None]
        factor = (max_norm / (nn.utils.get_total_norm(sums) + 1e-6)).clamp(max=1.0)
        both = (*self.task_gradients, *self.distillation_gradients)
        torch._foreach_mul_([each for each in both if each is not None], factor)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        gradients = iter(zip(self.task_gradients, self.distillation_gradients, strict=True))
        for group in self.param_groups:
            rate, momentum, delta, decay = group["lr"], group["momentum"], group["delta"], group["weight_decay"]
            # Parameters, gradients and buffers that are updated alike, by buffer, momentum and weight decay.
            alike: dict[tuple[str, float, float], list[tuple[Tensor, Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                of_task, of_distillation = next(gradients)
                if of_task is None and of_distillation is None:
                    continue
                state = self.state[parameter]
                is_first, has_both = not state, of_task is not None and of_distillation is not None
                if is_first:
                    state["task"], state["distillation"] = (torch.zeros_like(parameter) for _ in range(2))
                if of_task is not None:
                    task = ("task", momentum - delta if has_both else momentum, decay)
                    alike.setdefault(task, []).append((parameter, of_task, state["task"]))
                if of_distillation is not None:
                    # The published code starts the distillation's buffer from the bare gradient.
                    own_decay = 0.0 if has_both or is_first else decay
                    distillation = ("distillation", momentum + delta if has_both else momentum, own_decay)
                    alike.setdefault(distillation, []).append((parameter, of_distillation, state["distillation"]))
            moves = []
            for (_, kept, decayed), found in alike.items():
                parameters, given, buffers = (list(each) for each in zip(*found, strict=True))
                torch._foreach_mul_(buffers, kept)
                torch._foreach_add_(buffers, given)
                torch._foreach_add_(buffers, parameters, alpha=decayed)
                moves.append((parameters, buffers))
            for parameters, buffers in moves:
                if isinstance(rate, Tensor):
                    torch._foreach_sub_(parameters, torch._foreach_mul(buffers, rate))
                else:
                    torch._foreach_add_(parameters, buffers, alpha=-rate)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _gradients(self, loss: Tensor, *, keep: bool) -> Gradients:
        if not loss.requires_grad:
            return [None] * len(self.task_gradients)
        # An init stage freezes some parameters.
        free = [parameter for parameter in self._trained() if parameter.requires_grad]
        found = iter(torch.autograd.grad(loss, free, retain_graph=keep, allow_unused=True))
        return [next(found) if parameter.requires_grad else None for parameter in self._trained()]


def _added(one: Gradients, other: Gradients) -> Gradients:
    pairs = list(zip(one, other, strict=True))
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    sums = iter(torch._foreach_add([a for a, _ in both], [b for _, b in both]) if both else ())
    return [b if a is None else a if b is None else next(sums) for a, b in pairs]


@OPTIMIZERS.register("dot")
class DOTSpec(OptimizerSpec):
    """SGD with a momentum of its own for the distillation loss."""

    takes_published_rate: ClassVar[bool] = True
    without_teacher: ClassVar[str | None] = "SGD with less momentum"
    name: Literal["dot"] = "dot"
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, before delta is added or subtracted.")
    delta: float = Field(
        0.075,
        ge=0,
        lt=1,
        description="Added to the momentum of the distillation loss and subtracted from that of the cross-entropy.",
    )

    @model_validator(mode="after")
    def _check_momenta(self) -> "DOTSpec":
        if not self.delta <= self.momentum < 1 - self.delta:
            raise ValueError("momentum - delta and momentum + delta must be at least 0 and below 1")
        return self

    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        return DOT(self.groups(parameters, device), momentum=self.momentum, delta=self.delta)
