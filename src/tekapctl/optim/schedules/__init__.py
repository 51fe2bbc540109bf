"""Learning rate schedules, one file each."""

from tekapctl.optim.schedules.schedule import SCHEDULES, ScheduleSpec

__all__ = ["SCHEDULES", "ScheduleSpec"]
