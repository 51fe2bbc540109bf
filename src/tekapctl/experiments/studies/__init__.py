"""Studies: ablations of a method over seeds, one file each."""

from tekapctl.experiments.studies.study import STUDIES, Study

__all__ = ["STUDIES", "Study"]
