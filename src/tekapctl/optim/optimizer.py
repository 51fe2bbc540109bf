"""What all optimizers have, what the trainer asks of one, and the average of the weights that it updates."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.models import Network
from tekapctl.registry import Registry
from tekapctl.settings import Settings, Weight

CPU = torch.device("cpu")


class Optimizer(torch.optim.Optimizer):
    """What this package's optimizers add to PyTorch's: backward passes of a loss given in parts, and clipping.

    On CUDA the learning rates of parameter groups are tensors on the device, so that a CUDA graph that has recorded
    `step` reads the current rate.
    """

    is_recordable: ClassVar[bool] = False
    """Whether a CUDA graph can record `step`: after the first, each launches the same kernels and reads nothing on the
    host that changes."""

    def backward(self, parts: dict[str, Tensor], parallel: DataParallelStep) -> None:
        """Add the gradients of the parts' sum to those of earlier calls since `zero_grad`."""
        parallel.backward(torch.stack(list(parts.values())).sum())

    def clip(self, max_norm: float) -> None:
        """Scale the gradients so that their L2 norm over all parameters is at most `max_norm`."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_norm)

    def reset(self) -> None:
        """Forget momentum and other statistics."""
        self.state.clear()

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate; groups have a factor of it."""
        for group in self.param_groups:
            value = rate * group["lr_scale"]
            group["lr"] = group["lr"].fill_(value) if isinstance(group["lr"], Tensor) else value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state; where and how steps are computed stays as it is."""
        own = [{key: group[key] for key in _HOW if key in group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, values in zip(self.param_groups, own, strict=True):
            group.update(values)


_HOW = ("lr", "fused", "foreach", "capturable")
"""Options of parameter groups that depend on the device."""


@dataclass(frozen=True)
class Trainable:
    """A parameter to train."""

    tensor: nn.Parameter
    lr_scale: float = 1.0
    is_classifier: bool = False


class OptimizerSpec(Settings, ABC):
    """The settings that all optimizers have."""

    takes_published_rate: ClassVar[bool] = False
    """Whether the networks' published learning rates, which are those of SGD, are its defaults."""
    without_teacher: ClassVar[str | None] = None
    """For an optimizer that is meant for distillation: what it is without a teacher, as the end of a warning."""

    name: str = Field(description="Name of the optimizer.")
    learning_rate: float = Field(0.05, gt=0, le=1e6, description="Initial learning rate.")
    weight_decay: Weight = Field(5e-4, description="Weight decay.")
    decay_norms: bool = Field(True, description="Apply weight decay to biases and normalization parameters too.")
    clip_grad: float = Field(0.0, ge=0, le=1e6, description="Maximum L2 norm of the gradient; 0 disables clipping.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor of the learning rate from each block of the network to the block before it.",
    )
    lr_batch_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Batch size that learning_rate is meant for; the rate is scaled linearly to the run's batch size "
        "(Goyal et al., 2017). Off by default.",
    )

    @abstractmethod
    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        """The optimizer.

        Raises:
            UsageError: A library is missing.
        """

    def scale(self, batch_size: int) -> float:
        """Factor of the learning rate for a batch size."""
        return 1.0 if self.lr_batch_size is None else batch_size / self.lr_batch_size

    def groups(self, parameters: Iterable[Trainable], device: torch.device = CPU) -> list[dict[str, Any]]:
        """PyTorch's parameter groups: one for each learning rate and weight decay; on CUDA, the rates are tensors."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for each in parameters:
            decay = self.weight_decay if self.decay_norms or each.tensor.ndim > 1 else 0.0
            groups.setdefault((each.lr_scale, decay), []).append(each.tensor)
        found = []
        for (scale, decay), tensors in groups.items():
            rate: float | Tensor = scale * self.learning_rate
            rate = torch.tensor(rate, device=device) if device.type == "cuda" else rate
            found.append({"params": tensors, "lr": rate, "weight_decay": decay, "lr_scale": scale})
        return found

    def trainable(self, network: nn.Module, classifier: nn.Module, objective: nn.Module) -> list[Trainable]:
        """The parameters to train, with their learning rates; those of the objective have the full one."""
        named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        last = {id(parameter) for parameter in classifier.parameters()}
        # External networks are wrapped in a module named "network".
        blocks = [name.removeprefix("network.").rpartition(".")[0].split(".")[:2] for name, _ in named]
        order = {tuple(block): number for number, block in enumerate({tuple(block): None for block in blocks})}
        found = [
            Trainable(
                parameter,
                self.layer_decay ** (len(order) - 1 - order[tuple(block)]) if id(parameter) not in last else 1.0,
                id(parameter) in last,
            )
            for (_, parameter), block in zip(named, blocks, strict=True)
        ]
        return found + [Trainable(parameter) for parameter in objective.parameters() if parameter.requires_grad]


OPTIMIZERS: Registry[type[OptimizerSpec]] = Registry("optimizer", "tekapctl.optim")


class WeightAverage:
    """The average of a network's parameters and buffers over the steps of a run.

    After step t (from 0) the average moves by `1 - min(decay, (1 + t) / (10 + t))` towards the network's weights, so
    that it soon forgets the initial ones. Integers, such as the counters of batch norm, are copied.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Take the weights after a step, counted from where the student's stage begins, into the average.

        Before that stage the average is the network.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step)) if step >= 0 else 1.0
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        averages, values = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        torch._foreach_lerp_(averages, values, weight)
        copies, counts = _columns([pair for pair in pairs if not pair[0].is_floating_point()])
        if copies:
            torch._foreach_copy_(copies, counts)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [one for one, _ in pairs], [other for _, other in pairs]


def _tensors(network: Network) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
