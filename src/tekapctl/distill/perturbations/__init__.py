"""Perturbations of teacher logits, one file each."""

from tekapctl.distill.perturbations.perturbation import PERTURBATIONS, Basis, LogitPerturbation, Survey

__all__ = ["PERTURBATIONS", "Basis", "LogitPerturbation", "Survey"]
