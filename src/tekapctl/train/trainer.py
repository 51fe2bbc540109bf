"""One training loop for teachers and students."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.distillation.objective import Objective
from tekapctl.distributed.data_parallel import DataParallelStep, average_running_stats
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models import Network
from tekapctl.optim.optimizer import WeightAverage
from tekapctl.randomness import derive
from tekapctl.spec import RunSpec
from tekapctl.timing import Clock, no_clock
from tekapctl.train.callbacks import Callback, Checkpointer
from tekapctl.train.diagnosis import Diagnosis
from tekapctl.train.evaluation import predict, top_k
from tekapctl.train.graph import StepGraphs, why_not_recorded
from tekapctl.train.progress import Progress, Stages, Waiting
from tekapctl.train.step import EpochSums, Metrics, TrainStep

logger = logging.getLogger(__name__)
_REMEDY = "Try a smaller `optimizer.learning_rate`, smaller weights, or `precision=float32`."


class DivergedError(TekapctlError):
    """The loss is no longer finite."""


class Trainer:
    """Trains a network with an objective, whose parameters are trained too, and evaluates it after every epoch.

    Raises:
        UsageError: The network has no trainable parameter.
    """

    def __init__(
        self,
        spec: RunSpec,
        network: Network,
        objective: Objective,
        train: Batches,
        evaluated: Batches,
        precision: torch.dtype,
    ) -> None:
        self.spec = spec
        self.network = network
        self.objective = objective
        self.train_batches = train
        self.eval_batches = evaluated
        self.split = "val" if spec.data.val_fraction else "test"
        self.device = train.device
        self.comm = train.comm
        self.precision = precision
        self.progress = Progress()
        self._sums = EpochSums(self.device, comm=self.comm)
        self.clock: Clock = no_clock
        self.diagnosis: Diagnosis | None = None
        self.learning = TrainStep(network, objective, self.device, precision, compiled=spec.compile)
        self._parallel = DataParallelStep(self.learning, self.comm)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise UsageError(
                f"The network {spec.network} has no trainable parameter.",
                "Set requires_grad on the parameters that its factory should leave trainable.",
            )
        self._stages = Stages(spec, network, objective)
        parameters = spec.optimizer.trainable(network, network.classifier_layer, objective)
        self.optimizer = spec.optimizer.build(parameters, self.device)
        self.average = WeightAverage(network, spec.ema) if spec.ema else None
        self._graphs = self._make_graphs()
        self._waiting = Waiting(train)

    def _make_graphs(self) -> StepGraphs | None:
        """Records the steps of this trainer, if they are to be recorded and can be."""
        if not self.spec.graph or self.device.type != "cuda":
            return None
        reason = why_not_recorded(self.spec, self.network, self.objective, self.comm)
        if reason is not None:
            logger.info(f"training without a CUDA graph: {reason}")
            return None
        return StepGraphs(self, self.train_batches.largest_shard)

    def fit(self, callback: Callback, checkpointer: Checkpointer) -> None:
        """Train from the current progress to the last epoch; the checkpointer is called before the callback.

        Raises:
            DivergedError: The loss is no longer finite.
        """
        callback.on_start(self.spec.total_epochs, len(self.train_batches), self.progress.epoch)
        while not self.is_done:
            self.start_epoch()
            for batch in self.batches():
                self.train_step(batch)
                if not batch.ends_step:
                    continue
                callback.on_step(self.progress.epoch, self.progress.step - 1)
                checkpointer.after_step()
            metrics, is_best = self.end_epoch()
            checkpointer.after_epoch(metrics, is_best)
            callback.on_epoch(metrics)

    @property
    def averaged(self) -> Network:
        """The network that is evaluated and kept: the average if there is one, else the trained network itself."""
        return self.network if self.average is None else self.average.network

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or the validation accuracy has not improved for `patience` epochs."""
        return self.progress.epoch >= self.spec.total_epochs or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether the run has ended before its last epoch."""
        progress, patience = self.progress, self.spec.patience
        since = progress.epoch - max(progress.best_epoch, self.spec.init_epochs)
        return bool(patience) and not progress.step and patience <= since and progress.epoch < self.spec.total_epochs

    def start_epoch(self) -> None:
        """Set up the current epoch, from its beginning or from where it was interrupted."""
        epoch = self.progress.epoch
        if self._stages.enter(epoch):
            self._parallel.reset()
        if self._stages.begins_student(epoch) and not self.progress.step:
            self.optimizer.reset()  # momentum of the init stage is not the run's
        self._sums.begin()
        self._waiting.begin()

    def batches(self, epoch: int | None = None) -> Iterator[Batch]:
        """The batches of an epoch; by default the rest of the current one.

        Each is marked as the beginning of a step for compiled networks, which on CUDA reuse their output buffers from
        step to step. Several students that share a teacher share its step as well.
        """
        number, start = (self.progress.epoch, self.progress.step) if epoch is None else (epoch, 0)
        for batch in self.train_batches.epoch(number, start, strong=self.objective.requires.strong_view):
            if self.spec.compile:
                torch.compiler.cudagraph_mark_step_begin()
            yield batch

    @property
    def place(self) -> str:
        """What is running, for error messages."""
        if self.is_done:
            return "the evaluation after the last epoch"
        epoch, step = self.progress.epoch + 1, self.progress.step
        return (
            f"the test after epoch {epoch}" if step == len(self.train_batches) else f"step {step + 1} of epoch {epoch}"
        )

    def train_step(self, batch: Batch) -> None:
        """Take one step of the run, or a part of it if gradients are accumulated."""
        progress = self.progress
        # Dropout draws from PyTorch's own generator.
        place = (progress.epoch, progress.step, batch.shard.start)
        torch.manual_seed(derive(self.spec.seed, "network", *place))
        done = progress.step / len(self.train_batches)
        self.optimizer.set_learning_rate(self._stages.learning_rate(progress.epoch, done))
        self.take(batch)
        if batch.ends_step:
            if self.average is not None:
                self.average.update(self.network, batch.step - self.spec.init_epochs * len(self.train_batches))
            progress.step += 1

    def take(self, batch: Batch) -> None:
        """Train on a batch and add it to the sums: replayed where steps are recorded, else as they are."""
        self._sums.begin_step(self.progress.step, self._count(batch))
        if self._graphs is not None:
            self._graphs.take(batch)
        else:
            self.learn(batch)
            self.update(batch)

    def learn(self, batch: Batch) -> None:
        """The forward and backward pass of a batch, whose parts of the loss are added to the sums."""
        self._sums.add(self.gradients(batch), self._count(batch))

    def _count(self, batch: Batch) -> float | int:
        """Images of the batch for the sums."""
        return batch.shard.samples(len(batch.labels))

    def end_epoch(self) -> tuple[Metrics, bool]:
        """Evaluate after the last step of an epoch; returns its metrics, and whether it is the best so far.

        Raises:
            DivergedError: The loss is no longer finite.
        """
        self.check_finite()
        means = self._sums.means()
        seconds = self._sums.seconds
        correct = means.pop("correct")
        metrics: Metrics = {
            "epoch": self.progress.epoch + 1,
            "learning_rate": self._stages.learning_rate(self.progress.epoch),
            "train_loss": sum(means.values()),
            **{f"train_{name}": value for name, value in means.items()},
            **({"train_top1": correct} if self.train_batches.has_labels else {}),
            "train_seconds": seconds,
            "images_per_second": self._sums.all_samples / seconds,
            **({"data_wait": self._waiting.share(seconds)} if self.train_batches.are_streamed else {}),
        }
        metrics.update(self.test())
        if not math.isfinite(metrics[f"{self.split}_loss"]):
            raise DivergedError(
                f"The network's outputs for the {self.split} images are not finite after epoch {metrics['epoch']}.",
                _REMEDY,
            )
        if self.diagnosis is not None:
            metrics.update(self.diagnosis(self.progress.epoch))
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self._sums.clear()
        top1 = metrics[f"{self.split}_top1"]
        is_best = not self.objective.init_stage and top1 > self.progress.best_top1
        if is_best:
            self.progress.best_epoch, self.progress.best_top1 = self.progress.epoch, top1
        self.progress.history.append(metrics)
        self.progress.seconds += metrics["train_seconds"] + metrics["test_seconds"]
        return metrics, is_best

    def check_finite(self) -> None:
        """Check that all losses of the current epoch were finite; waits for the device.

        Raises:
            DivergedError: One was not; the message has its step and its parts.
        """
        found = self._sums.first_not_finite()
        if found is not None:
            step, parts = found
            shown = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
            raise DivergedError(
                f"The loss is not finite in step {step + 1} of epoch {self.progress.epoch + 1} ({shown}).",
                _REMEDY,
            )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Forward and backward pass, and the optimizer's step after the last batch of a step.

        Returns:
            The parts of the loss, and `correct`, the accuracy on the batch.
        """
        found = self.gradients(batch)
        self.update(batch)
        return found

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Forward and backward pass; returns what `step` does."""
        if batch.starts_step:
            self.optimizer.zero_grad()
        parts, logits = self._parallel(batch)
        with self.clock("backward"):
            weighted = parts if batch.share == 1 else {name: part * batch.share for name, part in parts.items()}
            self.optimizer.backward(weighted, self._parallel)
        found = {name: value.detach() for name, value in parts.items()}
        found["correct"] = batch.shard.rescale(batch.accuracy(logits.detach()))
        return found

    def update(self, batch: Batch) -> None:
        """The optimizer's step after the last batch of a step."""
        if not batch.ends_step:
            return
        with self.clock("optimizer"):
            if self.spec.optimizer.clip_grad:
                self.optimizer.clip(self.spec.optimizer.clip_grad)
            self.optimizer.step()

    def test(self) -> Metrics:
        """Evaluate the network of the run after an epoch; where its weights are averages, the raw ones too."""
        began = time.perf_counter()
        average_running_stats(self.comm, self.network)
        if self.average is not None:
            average_running_stats(self.comm, self.average.network)
        found = self._accuracy(self.split, self.averaged)
        if self.average is not None:
            found |= self._accuracy("raw", self.network)
        return {**found, "test_seconds": time.perf_counter() - began}

    def _accuracy(self, name: str, network: Network) -> Metrics:
        logits, labels = predict(network, self.eval_batches, self.precision)
        figures = torch.stack(
            [top_k(logits, labels, 1), top_k(logits, labels, 5), nn.functional.cross_entropy(logits, labels)]
        ).tolist()
        return dict(zip((f"{name}_top1", f"{name}_top5", f"{name}_loss"), figures, strict=True))

    def state(self) -> dict[str, Any]:
        """The training state, for `restore` on any number of processes; all processes must call this together."""
        averages = [] if self.average is None else [self.average.network]
        average_running_stats(self.comm, self.network, self.objective, *averages)
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.network.state_dict(),
            "progress": {**vars(self.progress), "history": list(self.progress.history)},
            "sums": self._sums.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a training state; later steps are what they would have been without the interruption."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.network.load_state_dict(state["average"])
        self.progress = Progress(**state["progress"])
        self._sums = EpochSums(self.device, **state["sums"], comm=self.comm).split()
        if self._graphs is not None:
            self._graphs.forget()  # it has other sums, and may have other momentum
