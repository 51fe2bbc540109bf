"""Stops processes whose launcher or parent has died."""

import os
import signal
import threading
import time
from functools import cache

_PAUSE = 0.5
"""Seconds between two checks of the parent process."""


@cache
def end_with_launcher() -> None:
    """Send SIGTERM to this process when its launcher is gone, since nothing else could stop it."""
    launcher = os.getppid()

    def follow() -> None:
        while os.getppid() == launcher:
            time.sleep(_PAUSE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="launcher", daemon=True).start()


def end_with_parent() -> None:
    """Send SIGTERM to this process when its standard input is closed."""

    def follow() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="sweep", daemon=True).start()
