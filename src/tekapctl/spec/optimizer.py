"""The optimizer and the learning rate schedule of a run."""

from typing import Annotated

from pydantic import (
    Field,
    model_validator,
)

from tekapctl.settings import Epochs, Settings, Weight


class OptimizerSpec(Settings):
    """SGD with momentum and a step schedule; the defaults are the published CIFAR-100 ones."""

    learning_rate: float = Field(0.05, gt=0, le=1e6, description="Learning rate before the first decay.")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: Weight = 5e-4
    nesterov: bool = False
    dot_delta: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="DOT (ICCV 2023): momentum that distillation has more and the task less; published 0.075.",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.625, 0.75, 0.875), description="Fractions of the epochs after which the rate decays (150, 180, 210 of 240)."
    )
    lr_gamma: float = Field(0.1, gt=0, le=1, description="What each decay multiplies the rate by.")

    lr_batch_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="The batch size that learning_rate is meant for: it is scaled linearly to the run's "
        "(Goyal et al., 2017); off unless given.",
    )
    warmup_epochs: Epochs = Field(0, description="Epochs over which the rate rises linearly to its first value.")

    @model_validator(mode="after")
    def _check_dot(self) -> "OptimizerSpec":
        if self.dot_delta and not (self.dot_delta <= self.momentum < 1 - self.dot_delta):
            raise ValueError("momentum less and plus dot_delta must both be at least 0 and below 1")
        if self.dot_delta and self.nesterov:
            raise ValueError("DOT has no Nesterov momentum: set nesterov to false")
        return self

    def scale(self, batch_size: int) -> float:
        """What rates are multiplied by for batches of a size."""
        return 1.0 if self.lr_batch_size is None else batch_size / self.lr_batch_size

    def rate(self, epoch: int, epochs: int, batch_size: int) -> float:
        """The learning rate of an epoch.

        Args:
            epoch: Counted from 0.
            epochs: Of the run.
            batch_size: Images in a batch, of all processes.
        """
        decays = sum(epoch >= round(fraction * epochs) for fraction in self.milestones)
        risen = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.learning_rate * self.lr_gamma**decays * risen * self.scale(batch_size)
