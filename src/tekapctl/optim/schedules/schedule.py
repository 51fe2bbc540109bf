"""The settings that all learning rate schedules have, and warm-up."""

from abc import ABC, abstractmethod

from pydantic import Field

from tekapctl.registry import Registry
from tekapctl.settings import Epochs, Settings


class ScheduleSpec(Settings, ABC):
    """The settings that all schedules have."""

    name: str = Field(description="Name of the schedule.")
    warmup_epochs: Epochs = Field(0, description="Epochs of linear warm-up before the schedule.")
    warmup_factor: float = Field(0.01, gt=0, le=1, description="Factor of the learning rate at the start of warm-up.")

    def factor(self, epoch: float | int, epochs: int) -> float:
        """Factor of the initial learning rate.

        Args:
            epoch: How far the run is, in epochs; a step may be in the middle of one.
            epochs: Epochs of the run.
        """
        if epoch < self.warmup_epochs:
            rise = self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs
            return rise * self.after_warmup(0.0, epochs)
        return self.after_warmup(epoch, epochs)

    @abstractmethod
    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        """Factor of the initial learning rate after warm-up.

        Args:
            epoch: How far the run is, in epochs; 0 during warm-up.
            epochs: Epochs of the run.
        """

    def progress(self, epoch: float | int, epochs: int) -> float:
        """How far the run is after warm-up, from 0 to 1."""
        left = max(epochs - self.warmup_epochs, 1)
        return min(max(epoch - self.warmup_epochs, 0.0) / left, 1.0)


SCHEDULES: Registry[type[ScheduleSpec]] = Registry("schedule", "tekapctl.optim.schedules")
