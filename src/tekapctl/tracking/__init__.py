"""Trackers of experiments that follow a run beside its metrics.jsonl, one file each."""

from tekapctl.tracking.following import Trackers
from tekapctl.tracking.tracker import TRACKERS, Tracker

__all__ = ["TRACKERS", "Tracker", "Trackers"]
