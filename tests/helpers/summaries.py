"""Summaries of runs that never trained."""

from typing import Any


def plain_summary(top1: float = 0.5, **values: Any) -> dict[str, Any]:
    """A finished run's summary as its file has it; `evaluation` is merged into a whole one."""
    evaluation = {
        "top1": top1,
        "top5": 1.0,
        "negative_log_likelihood": 1.0,
        "calibration_error": 0.1,
        "per_class": {"0": top1, "1": top1},
        "images": 100,
        "parameters": 77_754,
        "macs": 1_000_000,
        "images_per_second": 1000.0,
        **values.pop("evaluation", {}),
    }
    return {
        "run": "20260101-000000-x-0000",
        "status": "finished",
        "kind": "student",
        "model": "resnet8",
        "dataset": "digits",
        "train_images": 100,
        "seed": 0,
        "epochs": 2,
        "last_top1": top1,
        "best_top1": top1,
        "best_epoch": 1,
        "seconds": 10.0,
        "evaluation": evaluation,
        **values,
    }
