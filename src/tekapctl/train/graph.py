"""Records training steps as CUDA graphs: the host launches one graph instead of some hundred kernels.

A graph holds everything from the teacher's forward pass to the optimizer's step and the sums of the epoch, and is
replayed on the memory that it was recorded with. What changes from step to step is copied there before (the batch, and
the outputs of a teacher that is cached or shared), stays on the device anyway (learning rate, momentum, memory banks),
or is drawn by generators that are seeded for the step. Everything else is a constant of the graph. Where a constant
changes, such as the stage of the run or the weight of a warm-up, another graph is recorded.

The results are those of steps without graphs, bit for bit.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tekapctl.data.batch import Batch
from tekapctl.device import synchronize
from tekapctl.distillation.methods.pair import CosineDecay, Warmup
from tekapctl.distillation.objective import Objective
from tekapctl.distributed.communicator import Communicator
from tekapctl.errors import described
from tekapctl.models import Network
from tekapctl.spec import RunSpec
from tekapctl.train.recording import Constants, Recording, Training, is_external, is_ours, kind

logger = logging.getLogger(__name__)


def why_not_recorded(spec: RunSpec, network: Network, objective: Objective, comm: Communicator) -> str | None:
    """Why the steps of a run cannot be recorded; None if that can be tried."""
    if comm.world_size > 1:
        return "several processes train together"
    if spec.compile:
        return "compiled networks have graphs of their own"
    if spec.accumulate > 1:
        return "gradients are accumulated over several batches"
    if is_external(network):
        return f"{spec.network} is not a built-in network"
    methods = [member.method for member in objective.distillations if member.method is not None]
    for method in methods:
        if not (is_ours(method) or method.is_recordable):
            return f"{type(method).__name__} is not a built-in method and does not set is_recordable"
    for perturbation in (member.tekap.perturbation for member in objective.distillations):
        if not is_ours(perturbation):
            return f"{type(perturbation).__name__} is not a built-in perturbation"
    return None


class StepGraphs:
    """Takes the steps of a trainer, on a CUDA device, from CUDA graphs.

    The first step of each kind is taken without a graph: it creates what the optimizer and the libraries keep, and
    shows which random numbers are drawn. Batches smaller than `batch_size` are never recorded.
    """

    def __init__(self, trainer: Training, batch_size: int) -> None:
        self.trainer = trainer
        self.batch_size = batch_size
        # Gradients belong to the stream of their first backward pass, and the default stream cannot be recorded.
        self.stream = torch.cuda.Stream(trainer.device)
        methods = [member.method for member in trainer.objective.distillations if member.method is not None]
        values = [value for method in methods for module in method.modules() for value in vars(module).values()]
        self._weights = [value for value in values if isinstance(value, Warmup | CosineDecay)]
        self._constants: Constants = ()
        self._recordings: dict[Constants, Recording] = {}
        self._has_failed = False

    def forget(self) -> None:
        """Drop all graphs, for example because memory that they were recorded with has been replaced."""
        if self._recordings:
            synchronize(self.trainer.device)  # the last step may still be running
        self._recordings.clear()

    def take(self, batch: Batch) -> None:
        """Train on a batch and add it to the sums."""
        with self._on_stream():
            if self._has_failed or len(batch.labels) < self.batch_size:
                self._take_without_graph(batch)
            elif (recording := self._find(batch)) is None:
                self._recordings[kind(batch)] = Recording(self.trainer, batch)
            elif recording.graph is not None or self._record(recording, batch):
                recording.replay(batch)
            else:
                self._take_without_graph(batch)

    def _take_without_graph(self, batch: Batch) -> None:
        self.trainer.learn(batch)
        self.trainer.update(batch)

    def _find(self, batch: Batch) -> "Recording | None":
        """The recording of batches like this one; None if there is none with the current constants."""
        constants = (self.trainer.objective.init_stage, *(weight(batch.step) for weight in self._weights))
        if constants != self._constants:
            self._constants = constants
            self.forget()
        return self._recordings.get(kind(batch))

    def _record(self, recording: "Recording", batch: Batch) -> bool:
        """Record a step; returns whether this succeeded."""
        try:
            recording.record(batch)
        except RuntimeError as error:
            while isinstance(error.__context__, RuntimeError):
                error = error.__context__  # CUDA reports a failed recording once more when it ends
            logger.info(f"training without a CUDA graph: recording one failed with {described(error)}")
            self._has_failed = True
            self.forget()
            self.trainer.optimizer.zero_grad()
            return False
        return True

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on the stream of the recordings, after what was queued before and ahead of what will be."""
        current = torch.cuda.current_stream(self.trainer.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            current.wait_stream(self.stream)
