"""Takes a trainer's steps on the emulated device, and says what each of them did."""

from collections import Counter
from dataclasses import dataclass

from helpers.emulated_cuda.device import EmulatedGPU, Event
from tekapctl.train.trainer import Trainer


@dataclass(frozen=True)
class Step:
    """What a step of the training loop did on the device, from the batch to the optimizer.

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


def train_epoch(trainer: Trainer, gpu: EmulatedGPU) -> list[Step]:
    """Train an epoch; returns its steps. What happens between epochs is not part of them."""
    trainer.start_epoch()
    steps: list[Step] = []
    gpu.reset()
    for batch in trainer.batches():
        trainer.train_step(batch)
        if batch.ends_step:
            steps.append(Step(gpu.kernels, gpu.events))
            gpu.reset()
    trainer.end_epoch()
    return steps


def train(trainer: Trainer, gpu: EmulatedGPU) -> list[Step]:
    """Train all epochs; returns the steps of the hot loop: all but the first of each epoch."""
    hot: list[Step] = []
    while not trainer.is_done:
        hot += train_epoch(trainer, gpu)[1:]
    return hot
