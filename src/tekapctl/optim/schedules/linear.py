"""A straight line from the initial learning rate to the final one."""

from typing import Literal

from pydantic import Field

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec


@SCHEDULES.register("linear")
class Linear(ScheduleSpec):
    """Linear decay."""

    name: Literal["linear"] = "linear"
    final_factor: float = Field(0.0, ge=0, le=1, description="Factor of the learning rate at the end.")

    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        """`1 - (1 - final) t`."""
        return 1 - (1 - self.final_factor) * self.progress(epoch, epochs)
