"""AdamW, the usual optimizer of transformers and of fine-tuning.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field

from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trainable
from tekapctl.settings import Weight

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Optimizer, torch.optim.AdamW):
    """`torch.optim.AdamW`."""

    is_recordable = True


class AdaptiveSpec(OptimizerSpec):
    """The settings of optimizers with the moments of Adam."""

    decay_norms: bool = Field(False, description="Apply weight decay to biases and normalization parameters too.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of the gradient's moments.")


@OPTIMIZERS.register("adamw")
class AdamWSpec(AdaptiveSpec):
    """AdamW."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, le=1e6, description="Initial learning rate.")
    weight_decay: Weight = Field(0.05, description="Weight decay, decoupled from the gradient.")
    eps: float = Field(1e-8, gt=0, le=1, description="Added to the denominator.")

    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        """The fused implementation where there is one."""
        return AdamW(
            self.groups(parameters, device),
            betas=self.betas,
            eps=self.eps,
            fused=device.type in ("cpu", "cuda"),
            capturable=device.type == "cuda",
        )
