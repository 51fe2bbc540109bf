"""Studies: what a way of distilling is worth, and what of it that is due to; one file each."""

from tekapctl.studies.study import STUDIES, Study

__all__ = ["STUDIES", "Study"]
