"""Processes of a run that end with their launcher, however that ends."""

import os
import signal
import threading
import time
from functools import cache

_PAUSE = 0.5
"""Seconds between two looks at who this process's parent is."""


@cache
def end_with_launcher() -> None:
    """Have this process told to stop, as by SIGTERM, when its launcher is gone: nobody could stop it any more."""
    launcher = os.getppid()

    def follow() -> None:
        while os.getppid() == launcher:
            time.sleep(_PAUSE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="launcher", daemon=True).start()


def end_with_parent() -> None:
    """Have this process told to stop, as by SIGTERM, when the other end of its standard input is closed."""

    def follow() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="sweep", daemon=True).start()
