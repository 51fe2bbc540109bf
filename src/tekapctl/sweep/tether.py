"""A worker that ends with the sweep that started it, however that ends."""

import os
import signal
import threading


def end_with_parent() -> None:
    """Have this process told to stop, as by SIGTERM, when the other end of its standard input is closed."""

    def follow() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="sweep", daemon=True).start()
