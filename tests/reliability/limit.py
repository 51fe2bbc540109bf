"""What a hostile command may take of the machine."""

import resource
from pathlib import Path

MEMORY = 1 << 30
"""Bytes that a command may take beyond what the program itself has."""
SECONDS = 60
"""Of CPU time, for a command."""


def limit() -> None:
    """Whoever believes a lying size gets a MemoryError here instead of the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    ceiling = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
