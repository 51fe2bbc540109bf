"""Studies: ablations of a method over several seeds."""

from tekapctl.experiments.studies.study import STUDIES, Study

__all__ = ["STUDIES", "Study"]
