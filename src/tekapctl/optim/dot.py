"""DOT: more momentum for the distillation loss than for the task loss.

Zhao, Cui, Song and Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, equations 8 to 10.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.optim.sgd import SGD
from tekapctl.timing import Clock


class DOT(SGD):
    """SGD with a momentum buffer for each loss: `momentum - delta` for the task's, `momentum + delta` for the other.

    Weight decay is part of the task's gradient. With delta 0 it is SGD of the summed loss. A parameter with a gradient
    of one loss only, such as a connector's, is trained by plain SGD with `momentum`, as in the published code.

    Args:
        parameters: The parameters to train.
        lr: Learning rate.
        momentum: Momentum before adding or subtracting delta.
        weight_decay: Weight decay.
        delta: Added to the distillation loss's momentum, subtracted from the task's; both must stay in [0, 1).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, delta: float
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.delta = delta

    def minimize(self, parts: dict[str, Tensor], parallel: DataParallelStep, clock: Clock) -> None:
        """Two backward passes, for the cross-entropy and for the sum of all other losses, and the step."""
        zero = torch.zeros((), device=next(iter(parts.values())).device)
        with clock("backward"):
            task = parts.get("cross_entropy", zero)
            others = [value for name, value in parts.items() if name != "cross_entropy"]
            gradients = self.backward(task, torch.stack(others).sum() if others else zero)
            for each in gradients:
                parallel.average(each)
        with clock("optimizer"):
            self.apply(gradients)

    def backward(self, task: Tensor, distillation: Tensor) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of both losses.

        Args:
            task: The cross-entropy.
            distillation: The sum of all other losses.
        """
        trained = self._trained()
        # Either may be constant: a cross-entropy with weight 0, or a method without a loss.
        of_task = self._gradients(task, trained, keep=distillation.requires_grad)
        return of_task, self._gradients(distillation, trained, keep=False)

    @torch.no_grad()
    def apply(self, gradients: tuple[Sequence[Tensor | None], Sequence[Tensor | None]]) -> None:
        """Update the parameters with both momentum buffers."""
        group = self.param_groups[0]
        rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        for parameter, of_task, of_distillation in zip(self._trained(), *gradients, strict=True):
            if of_task is None and of_distillation is None:
                continue
            state = self.state[parameter]
            is_first = not state
            if is_first:
                state["task"], state["distillation"] = (torch.zeros_like(parameter) for _ in range(2))
            if of_task is not None and of_distillation is not None:
                state["task"].mul_(momentum - self.delta).add_(of_task).add_(parameter, alpha=decay)
                state["distillation"].mul_(momentum + self.delta).add_(of_distillation)
                parameter.add_(state["task"], alpha=-rate).add_(state["distillation"], alpha=-rate)
            else:
                gradient, buffer = (of_distillation, "distillation") if of_task is None else (of_task, "task")
                assert gradient is not None
                # The published code starts the distillation's buffer from the bare gradient.
                own_decay = 0.0 if is_first and of_task is None else decay
                state[buffer].mul_(momentum).add_(gradient).add_(parameter, alpha=own_decay)
                parameter.add_(state[buffer], alpha=-rate)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _gradients(self, loss: Tensor, trained: list[nn.Parameter], *, keep: bool) -> list[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(trained)
        return list(torch.autograd.grad(loss, trained, retain_graph=keep, allow_unused=True))
