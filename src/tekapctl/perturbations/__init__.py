"""What augmented teachers' logits deviate by from the teacher's, one file a perturbation."""

from tekapctl.perturbations.perturbation import PERTURBATIONS, Basis, LogitPerturbation, Survey

__all__ = ["PERTURBATIONS", "Basis", "LogitPerturbation", "Survey"]
