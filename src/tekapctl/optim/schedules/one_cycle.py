"""One rise and one fall of the learning rate."""

import math
from typing import Literal

from pydantic import Field

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec


@SCHEDULES.register("one-cycle")
class OneCycle(ScheduleSpec):
    """The one-cycle policy with cosine annealing, in the shape of `torch.optim.lr_scheduler.OneCycleLR`.

    Smith and Topin, "Super-Convergence", 2018. `learning_rate` is the highest one; momentum stays.
    """

    name: Literal["one-cycle"] = "one-cycle"
    rise: float = Field(0.3, gt=0, lt=1, description="Fraction of the run in which the learning rate rises.")
    initial_factor: float = Field(0.04, gt=0, le=1, description="Factor of the learning rate at the start.")
    final_factor: float = Field(4e-6, ge=0, le=1, description="Factor of the learning rate at the end.")

    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        """Half a cosine up to 1, and half a cosine down."""
        progress = self.progress(epoch, epochs)
        if progress < self.rise:
            return _between(self.initial_factor, 1.0, progress / self.rise)
        return _between(1.0, self.final_factor, (progress - self.rise) / (1 - self.rise))


def _between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
