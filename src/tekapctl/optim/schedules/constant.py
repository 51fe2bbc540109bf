"""The same learning rate for the whole run."""

from typing import Literal

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec


@SCHEDULES.register("constant")
class Constant(ScheduleSpec):
    """No decay."""

    name: Literal["constant"] = "constant"

    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        return 1.0
