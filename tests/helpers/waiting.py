"""Waiting for something to happen, however busy the machine is."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], goes_on: Callable[[], bool] = lambda: True) -> None:
    """Wait until something holds; fail if what should bring it about has ended without it.

    Args:
        holds: What is waited for.
        goes_on: Whether what brings it about, such as a process, still goes on. Without it only the test's time limit
            ends the wait.
    """
    while not holds():
        alive = goes_on()
        assert holds() or alive, "it ended before that"
        time.sleep(0.01)
