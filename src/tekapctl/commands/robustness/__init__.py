"""Robustness to attacks, corruptions and occlusion, and transfer to other data sets."""

from tekapctl.commands.robustness.evaluation import EPSILON, Request, evaluate_shifts
from tekapctl.commands.robustness.linear_probe import Transfer, linear_probe
from tekapctl.commands.robustness.shifts import CORRUPTIONS, SEVERITIES

__all__ = ["CORRUPTIONS", "EPSILON", "SEVERITIES", "Request", "Transfer", "evaluate_shifts", "linear_probe"]
