"""Knowledge distillation of image classifiers with TeKAP."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tekapctl.api import distill, evaluate, load_student, resume_run, train_teacher

__version__ = "0.1.0"
__all__ = ["distill", "evaluate", "load_student", "resume_run", "train_teacher"]


def __getattr__(name: str) -> Any:
    """The functions of `tekapctl.api`, imported when they are asked for: `--help` must not wait for PyTorch."""
    if name in __all__:
        from tekapctl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
