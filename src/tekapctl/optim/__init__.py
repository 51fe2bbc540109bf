"""Optimizers, one file each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tekapctl.optim.dot import DOT
from tekapctl.optim.sgd import SGD
from tekapctl.spec import OptimizerSpec

__all__ = ["DOT", "SGD", "build_optimizer"]


def build_optimizer(settings: OptimizerSpec, parameters: Sequence[nn.Parameter], device: torch.device) -> SGD:
    """The optimizer of a run.

    Args:
        settings: The spec's optimizer settings.
        parameters: The parameters to train.
        device: The parameters' device.
    """
    shared: dict[str, Any] = {
        "lr": settings.learning_rate,
        "momentum": settings.momentum,
        "weight_decay": settings.weight_decay,
    }
    if settings.dot_delta:
        return DOT(parameters, **shared, delta=settings.dot_delta)
    return SGD(parameters, **shared, nesterov=settings.nesterov, fused=device.type in ("cpu", "cuda"))
