"""How many processors there are."""

import os

from tekapctl.parallel.team import local_processes


def processors() -> int:
    """Those that this process may use; several processes of a run share them."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // local_processes())
