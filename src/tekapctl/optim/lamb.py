"""LAMB, for large batches; timm's implementation.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from pydantic import Field

from tekapctl.errors import UsageError
from tekapctl.optim.adamw import AdaptiveSpec
from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, Trainable
from tekapctl.settings import Weight


@OPTIMIZERS.register("lamb")
class LambSpec(AdaptiveSpec):
    """LAMB."""

    name: Literal["lamb"] = "lamb"
    learning_rate: float = Field(5e-3, gt=0, le=1e6, description="Initial learning rate.")
    weight_decay: Weight = Field(0.02, description="Weight decay.")
    eps: float = Field(1e-6, gt=0, le=1, description="Added to the denominator.")

    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        """The optimizer of timm.

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
