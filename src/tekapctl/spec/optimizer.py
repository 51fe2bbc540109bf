"""The optimizer and the learning rate schedule of a run."""

from typing import Annotated

from pydantic import (
    Field,
    model_validator,
)

from tekapctl.settings import Epochs, Settings, Weight


class OptimizerSpec(Settings):
    """SGD with momentum and a step schedule; the defaults are those published for CIFAR-100."""

    learning_rate: float = Field(0.05, gt=0, le=1e6, description="Initial learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    weight_decay: Weight = Field(5e-4, description="Weight decay.")
    nesterov: bool = Field(False, description="Nesterov momentum.")
    dot_delta: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="DOT (ICCV 2023): added to the momentum of the distillation loss and subtracted from that of the "
        "cross-entropy; published 0.075.",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.625, 0.75, 0.875),
        description="Fractions of the epochs after which the learning rate decays (150, 180, 210 of 240).",
    )
    lr_gamma: float = Field(0.1, gt=0, le=1, description="Factor of each decay.")

    lr_batch_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Batch size that learning_rate is meant for; the rate is scaled linearly to the run's batch size "
        "(Goyal et al., 2017). Off by default.",
    )
    warmup_epochs: Epochs = Field(0, description="Epochs of linear warmup of the learning rate.")

    @model_validator(mode="after")
    def _check_dot(self) -> "OptimizerSpec":
        if self.dot_delta and not (self.dot_delta <= self.momentum < 1 - self.dot_delta):
            raise ValueError("momentum - dot_delta and momentum + dot_delta must be at least 0 and below 1")
        if self.dot_delta and self.nesterov:
            raise ValueError("DOT has no Nesterov momentum: set nesterov to false")
        return self

    def scale(self, batch_size: int) -> float:
        """Factor of the learning rate for a batch size."""
        return 1.0 if self.lr_batch_size is None else batch_size / self.lr_batch_size

    def rate(self, epoch: int, epochs: int, batch_size: int) -> float:
        """The learning rate of an epoch.

        Args:
            epoch: Counted from 0.
            epochs: Epochs of the run.
            batch_size: Batch size, over all processes.
        """
        decays = sum(epoch >= round(fraction * epochs) for fraction in self.milestones)
        risen = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.learning_rate * self.lr_gamma**decays * risen * self.scale(batch_size)
