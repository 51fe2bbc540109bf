"""Perturbations of teacher logits, one file each."""

from tekapctl.distillation.perturbations.perturbation import (
    PERTURBATIONS,
    LogitPerturbation,
    PerturbationContext,
    TeacherStatistics,
)

__all__ = ["PERTURBATIONS", "LogitPerturbation", "PerturbationContext", "TeacherStatistics"]
