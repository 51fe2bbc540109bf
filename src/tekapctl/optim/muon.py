"""Muon for the weights of hidden layers, AdamW for all other parameters.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. PyTorch's implementation takes matrices,
so a convolution's kernel is flattened to one row for each output channel. Updates are scaled to the size of AdamW's
(Liu et al., "Muon is Scalable for LLM Training", 2025), so that both share a learning rate.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tekapctl.optim.adamw import AdamW
from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trainable
from tekapctl.settings import Weight

_BETAS = (0.9, 0.95)


class Muon(Optimizer):
    """`torch.optim.Muon` for weights of two or more dimensions, `torch.optim.AdamW` for the rest.

    Args:
        weights: Parameter groups of the former.
        others: Parameter groups of the latter.
        momentum: Momentum of Muon.
    """

    def __init__(self, weights: list[dict[str, Any]], others: list[dict[str, Any]], *, momentum: float) -> None:
        self._weights = [parameter for group in weights for parameter in group["params"]]
        self._matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in self._weights]
        flattened = iter(self._matrices)
        matrices = [{**group, "params": [next(flattened) for _ in group["params"]]} for group in weights]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, betas=_BETAS, foreach=True))
        super().__init__([*weights, *others], {})

    def set_learning_rate(self, rate: float) -> None:
        super().set_learning_rate(rate)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * group["lr_scale"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts:
            part.step()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            weight.copy_(matrix.view(weight.shape))

    def reset(self) -> None:
        for part in self._parts:
            part.state.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


@OPTIMIZERS.register("muon")
class MuonSpec(OptimizerSpec):
    """Muon for the weights of hidden layers; AdamW for the classifier, biases and normalization."""

    name: Literal["muon"] = "muon"
    learning_rate: float = Field(2e-3, gt=0, le=1e6, description="Initial learning rate.")
    weight_decay: Weight = Field(0.05, description="Weight decay, decoupled from the gradient.")
    decay_norms: bool = Field(False, description="Apply weight decay to biases and normalization parameters too.")
    momentum: float = Field(0.95, ge=0, lt=1, description="Nesterov momentum of the hidden layers.")

    def build(self, parameters: Sequence[Trainable], device: torch.device) -> Optimizer:
        hidden = [each for each in parameters if each.tensor.ndim > 1 and not each.is_classifier]
        others = [each for each in parameters if each.tensor.ndim <= 1 or each.is_classifier]
        return Muon(self.groups(hidden), self.groups(others), momentum=self.momentum)
