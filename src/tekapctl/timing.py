"""Time spent in each phase of a training step; ordinary runs measure nothing."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from tekapctl.device import synchronize

Clock = Callable[[str], AbstractContextManager[None]]
"""Gives a context for a phase of a step, by its name."""
_NOTHING = nullcontext()


def no_clock(_: str) -> AbstractContextManager[None]:
    """The clock of an ordinary run."""
    return _NOTHING


class StepClock:
    """Sums the time of each phase. It waits for the device at both ends, so steps it looks at are slower."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time until the context ends towards the phase."""
        synchronize(self.device)
        began = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self.device)
            self.seconds[phase] += time.perf_counter() - began
