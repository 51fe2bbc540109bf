"""Optimizers, one file each, their schedules, and the average of weights."""

from tekapctl.optim.optimizer import OPTIMIZERS, Optimizer, OptimizerSpec, Trainable

__all__ = ["OPTIMIZERS", "Optimizer", "OptimizerSpec", "Trainable"]
