"""LAMB, for large batches; timm's implementation.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from pydantic import Field

from tekapctl.errors import UsageError
from tekapctl.optim.adamw import Beta
from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trained
from tekapctl.settings import Weight


@OPTIMIZERS.register("lamb")
class LambSpec(OptimizerSpec):
    """LAMB."""

    name: Literal["lamb"] = "lamb"
    learning_rate: float = Field(5e-3, gt=0, le=1e6, description="Initial learning rate.")
    weight_decay: Weight = Field(0.02, description="Weight decay.")
    decay_norms: bool = Field(False, description="Apply weight decay to biases and normalization parameters too.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of the gradient's moments.")
    eps: float = Field(1e-6, gt=0, le=1, description="Added to the denominator.")

    def build(self, parameters: Sequence[Trained], device: torch.device) -> Optimizer:
        """Timm's.

        Raises:
            UsageError: timm is not installed.
        """
        if find_spec("timm") is None:
            raise UsageError("The optimizer lamb is timm's.", 'Install it: pip install "tekapctl[timm]".')
        from timm.optim.lamb import Lamb as TimmLamb

        class Lamb(Optimizer, TimmLamb):
            """`timm.optim.Lamb`, which counts steps outside of its state."""

            def reset(self) -> None:
                """Forget the moments and the steps, by which these are corrected."""
                super().reset()
                for group in self.param_groups:
                    group.pop("step", None)

        # timm clips gradients to a norm of 1 unless told otherwise; here clip_grad says it for all optimizers.
        return Lamb(self.groups(parameters), betas=self.betas, eps=self.eps, max_grad_norm=None)
