"""Experiment trackers, one file each."""

from tekapctl.tracking.tracker import TRACKERS, Tracker, Trackers

__all__ = ["TRACKERS", "Tracker", "Trackers"]
