"""What each step of a training loop did on the emulated device."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from helpers.emulated_cuda.device import EmulatedGPU, Event
from tekapctl.train.step import Metrics
from tekapctl.train.trainer import Trainer

DATA = {"name": "synthetic", "samples": 20, "test_samples": 8, "classes": 4, "size": 16, "padding": 1}
"""Two full batches and a smaller one."""
BASE: dict[str, Any] = {"data": DATA, "epochs": 1, "batch_size": 8, "precision": "bfloat16", "graph": False}
"""Settings of a run on them."""
SLACK = 1.05
"""PyTorch's versions differ a little in the operators that functions are made of."""


@dataclass(frozen=True)
class Step:
    """What a step did, from making its batch to the optimizer.

    Attributes:
        kernels: Kernels launched, by operator.
        events: What else the host did with the device.
    """

    kernels: Counter[str]
    events: list[Event]

    @property
    def waits(self) -> list[str]:
        """Each time the host waited for the device."""
        return [str(event) for event in self.events if event.waits]


class StepRecorder:
    """Records the steps of the hot loop: all but the first of each epoch. Is a callback and keeps no checkpoints.

    Args:
        gpu: The device.
    """

    def __init__(self, gpu: EmulatedGPU) -> None:
        self.gpu = gpu
        self.hot: list[Step] = []

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None: ...

    def on_step(self, epoch: int, step: int) -> None:
        if step:
            self.hot.append(Step(self.gpu.kernels, self.gpu.events))
        self.gpu.reset()

    def on_epoch(self, metrics: Metrics) -> None: ...

    def after_step(self) -> None: ...

    def after_epoch(self, metrics: Metrics, is_best: bool) -> None: ...


def train(trainer: Trainer, gpu: EmulatedGPU) -> list[Step]:
    """Train all epochs; returns the steps of the hot loop."""
    recorder = StepRecorder(gpu)
    trainer.fit(recorder, recorder)
    return recorder.hot
