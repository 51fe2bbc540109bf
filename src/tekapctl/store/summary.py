"""Validates the summaries of finished runs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class EvaluationSummary(_Part):
    """Results on the test images."""

    top1: Fraction
    top5: Fraction
    negative_log_likelihood: float
    calibration_error: float
    per_class: dict[str, Fraction]
    images: int = Field(ge=1)
    parameters: int = Field(ge=0)
    macs: int = Field(ge=0)
    images_per_second: float = Field(ge=0)
    agreement: Fraction | None = None
    kl_from_teacher: float | None = None
    correlation_distance: float | None = None


class TeacherSummary(_Part):
    """The teacher of a student run."""

    model: str
    reference: str
    top1: Fraction | None
    digest: str


class RunSummary(_Part):
    """The summary of a finished run."""

    status: Literal["finished"]
    model: str
    dataset: str
    seed: int
    epochs: int = Field(ge=1)
    epochs_trained: int | None = Field(None, ge=1)
    weights_epoch: int | None = Field(None, ge=1)
    last_top1: Fraction
    best_top1: float = Field(ge=-1, le=1)
    best_epoch: int = Field(ge=0)
    last_val_top1: Fraction | None = None
    best_val_top1: float | None = Field(None, ge=-1, le=1)
    raw_top1: Fraction | None = None
    seconds: float = Field(ge=0)
    evaluation: EvaluationSummary
    teacher: TeacherSummary | None = None


def problem_of(summary: dict[str, Any]) -> str | None:
    """What is wrong with a finished run's summary, or None."""
    try:
        RunSummary.model_validate(summary)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None
