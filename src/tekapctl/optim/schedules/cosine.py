"""Half a cosine from the initial learning rate to the final one."""

import math
from typing import Literal

from pydantic import Field

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec


@SCHEDULES.register("cosine")
class Cosine(ScheduleSpec):
    """Cosine annealing without restarts: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5."""

    name: Literal["cosine"] = "cosine"
    final_factor: float = Field(0.0, ge=0, le=1, description="Factor of the learning rate at the end.")

    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        """`final + (1 - final) (1 + cos(pi t)) / 2`."""
        cosine = (1 + math.cos(math.pi * self.progress(epoch, epochs))) / 2
        return self.final_factor + (1 - self.final_factor) * cosine
