"""What the metrics of an epoch say, whichever images it was evaluated on. The command line imports it at its start."""

from collections.abc import Mapping
from typing import Any


def split_of(metrics: Mapping[str, Any]) -> str:
    """The images that an epoch was evaluated on: `val`, or `test` without validation images."""
    return "val" if "val_top1" in metrics else "test"


def has_top1(metrics: Mapping[str, Any]) -> bool:
    """Whether the metrics hold an accuracy."""
    return f"{split_of(metrics)}_top1" in metrics


def top1_of(metrics: Mapping[str, Any]) -> float:
    """The top-1 accuracy of an epoch, as a fraction.

    Raises:
        KeyError: There is none.
    """
    return float(metrics[f"{split_of(metrics)}_top1"])
