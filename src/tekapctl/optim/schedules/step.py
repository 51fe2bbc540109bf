"""The step schedule of the published CIFAR and ImageNet settings."""

from typing import Annotated, Literal

from pydantic import Field

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec


@SCHEDULES.register("step")
class Step(ScheduleSpec):
    """The learning rate is multiplied by gamma after each milestone."""

    name: Literal["step"] = "step"
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.625, 0.75, 0.875),
        description="Fractions of the epochs after which the learning rate decays (150, 180, 210 of 240).",
    )
    gamma: float = Field(0.1, gt=0, le=1, description="Factor of each decay.")

    def after_warmup(self, epoch: float | int, epochs: int) -> float:
        """`gamma` to the power of the milestones passed, each rounded to whole epochs."""
        return self.gamma ** sum(epoch >= round(fraction * epochs) for fraction in self.milestones)
