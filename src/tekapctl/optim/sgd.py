"""SGD with momentum, which published CIFAR and ImageNet results were trained with."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trainable


class SGD(Optimizer, torch.optim.SGD):
    """`torch.optim.SGD`."""

    is_recordable = True


@OPTIMIZERS.register("sgd")
class SGDSpec(OptimizerSpec):
    """SGD with momentum; the defaults are those published for CIFAR-100."""

    takes_published_rate: ClassVar[bool] = True
    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    nesterov: bool = Field(False, description="Nesterov momentum.")

    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        """The fused implementation where there is one."""
        return SGD(
            self.groups(parameters, device),
            momentum=self.momentum,
            nesterov=self.nesterov,
            fused=device.type in ("cpu", "cuda"),
        )
