"""One training loop for teachers and students."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tekapctl.data.batches import Batch, Batches
from tekapctl.distill.objective import Objective, Parts
from tekapctl.distributed.batch_norm import average_running_stats
from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.models import Network
from tekapctl.optim.dot import DOT
from tekapctl.randomness import derive
from tekapctl.spec.run import RunSpec
from tekapctl.timing import Clock, no_clock
from tekapctl.train.diagnosis import Diagnosis
from tekapctl.train.evaluation import predict, top_k
from tekapctl.train.step import EpochSums, Metrics, TrainStep


@runtime_checkable
class Callback(Protocol):
    """Is told how a run goes on."""

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins with epoch `first_epoch` (from 0) of `epochs`, each of so many steps."""

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued; nothing of it may be read back."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""


@runtime_checkable
class Checkpointer(Protocol):
    """Keeps what a run has reached."""

    def after_step(self) -> None:
        """A step was queued. May stop the run by raising."""

    def after_epoch(self, metrics: Metrics, is_best: bool) -> None:
        """An epoch ended; it may be the best so far."""


@dataclass
class Progress:
    """How far a run has come; part of the training state.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the epoch under way.
        best_epoch: The epoch, from 1, with the best top-1 accuracy on the test set so far.
        best_top1: That accuracy.
        seconds: Time spent on the epochs done, with their tests.
        history: The metrics of the epochs done.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0
    seconds: float = 0.0
    history: list[Metrics] = field(default_factory=list)

    @property
    def last(self) -> Metrics:
        """The last epoch's metrics."""
        return self.history[-1]


_REMEDY = "Try a smaller --lr, smaller weights, or --precision float32."


class DivergedError(TekapctlError):
    """The loss is no longer finite."""


class Trainer:
    """Trains a network towards an objective.

    Args:
        spec: Epochs, optimiser and schedule.
        network: The learner, on its device.
        objective: Its loss, on the same device; its own parameters are trained too.
        train: The training batches.
        test: The test batches, seen after every epoch.
        precision: Precision of the networks' passes.

    Raises:
        UsageError: The learner has no parameter that can be trained.
    """

    def __init__(
        self,
        spec: RunSpec,
        network: Network,
        objective: Objective,
        train: Batches,
        test: Batches,
        precision: torch.dtype,
    ) -> None:
        self.spec = spec
        self.network = network
        self.objective = objective
        self.train_batches = train
        self.test_batches = test
        self.device = train.device
        self.comm = train.comm
        self.precision = precision
        self.progress = Progress()
        self._sums = EpochSums(self.device, comm=self.comm)
        self.clock: Clock = no_clock
        self.diagnosis: Diagnosis | None = None
        self.learning = TrainStep(network, objective, self.device, precision, compiled=spec.compile)
        self._averaged = DataParallelStep(self.learning, self.comm)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise UsageError(
                f"Nothing of the network {spec.network} can be trained: it has no parameter with requires_grad.",
                "Let its factory leave the parameters that are to be trained unfrozen.",
            )
        self._head = [
            p for module in network.modules_after_feature_maps() for p in module.parameters() if p.requires_grad
        ]
        parameters = [p for module in (network, objective) for p in module.parameters() if p.requires_grad]
        settings = spec.optimizer
        self.optimizer: torch.optim.SGD
        if settings.dot_delta:
            self.optimizer = DOT(
                parameters,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                delta=settings.dot_delta,
            )
        else:
            self.optimizer = torch.optim.SGD(
                parameters,
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
                fused=self.device.type in ("cpu", "cuda"),
            )

    def fit(self, callback: Callback, checkpointer: Checkpointer) -> None:
        """Train from where the progress stands to the last epoch.

        Args:
            callback: Is told of steps and epochs.
            checkpointer: Keeps what is reached; comes before the listener.

        Raises:
            DivergedError: The loss is no longer finite.
        """
        callback.on_start(self.spec.total_epochs, len(self.train_batches), self.progress.epoch)
        while not self.is_done:
            self.start_epoch()
            for batch in self.batches():
                self.take(batch)
                callback.on_step(self.progress.epoch, self.progress.step - 1)
                checkpointer.after_step()
            metrics, is_best = self.end_epoch()
            checkpointer.after_epoch(metrics, is_best)
            callback.on_epoch(metrics)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done."""
        return self.progress.epoch >= self.spec.total_epochs

    def start_epoch(self) -> None:
        """Get ready for the epoch under way, from its beginning or from where it was left."""
        epoch, first = self.progress.epoch, self.spec.init_epochs
        if self.objective.init_stage != (epoch < first):
            self._averaged.reset()
        self.objective.init_stage = epoch < first
        self.network.train(self.objective.trains_learner)
        for module in self.network.modules_after_feature_maps() if self.objective.init_stage else ():
            module.eval()
        for parameter in self._head:
            parameter.requires_grad_(not self.objective.init_stage)
        self.objective.train()
        if epoch == first > 0 and not self.progress.step:
            self.optimizer.state.clear()  # the first stage's momentum is not the run's
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        self._sums.begin()

    @property
    def _rate(self) -> float:
        epoch, first = self.progress.epoch, self.spec.init_epochs
        return self.spec.init_lr(epoch) if epoch < first else self.spec.rate(epoch - first)

    def batches(self) -> Iterator[Batch]:
        """What is left of the epoch under way."""
        strong = self.objective.requires.strong_view
        return self.marked(self.train_batches.epoch(self.progress.epoch, self.progress.step, strong=strong))

    def marked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Batches, each the beginning of a step for compiled networks.

        On CUDA they write over what they gave in the step before. Where several students ask one teacher of a batch,
        a step begins with the batch and not with each student.

        Args:
            batches: The batches.
        """
        for batch in batches:
            if self.spec.compile:
                torch.compiler.cudagraph_mark_step_begin()
            yield batch

    @property
    def place(self) -> str:
        """What is being done, for error messages."""
        if self.is_done:
            return "the evaluation after the last epoch"
        epoch, step = self.progress.epoch + 1, self.progress.step
        return (
            f"the test after epoch {epoch}" if step == len(self.train_batches) else f"step {step + 1} of epoch {epoch}"
        )

    def take(self, batch: Batch) -> None:
        """Take the next step."""
        # Dropout draws from PyTorch's own generator.
        place = (self.progress.epoch, self.progress.step, batch.shard.first)
        torch.manual_seed(derive(self.spec.seed, "network", *place))
        self._sums.add(self.progress.step, self.step(batch), batch.shard.samples(len(batch.labels)))
        self.progress.step += 1

    def end_epoch(self) -> tuple[Metrics, bool]:
        """Test after the last step of an epoch; returns its metrics, and whether it is the best so far.

        Raises:
            DivergedError: The loss is no longer finite.
        """
        self.check_finite()
        means = self._sums.means()
        seconds = self._sums.seconds
        correct = means.pop("correct")
        metrics: Metrics = {
            "epoch": self.progress.epoch + 1,
            "learning_rate": self._rate,
            "train_loss": sum(means.values()),
            **{f"train_{name}": value for name, value in means.items()},
            "train_top1": correct,
            "train_seconds": seconds,
            "images_per_second": self._sums.all_samples / seconds,
        }
        metrics.update(self.test())
        if not math.isfinite(metrics["test_loss"]):
            raise DivergedError(
                f"The network's outputs for the test images are not finite after epoch {self.progress.epoch + 1}.",
                _REMEDY,
            )
        if self.diagnosis is not None:
            metrics.update(self.diagnosis(self.progress.epoch))
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self._sums = EpochSums(self.device, comm=self.comm)
        is_best = not self.objective.init_stage and metrics["test_top1"] > self.progress.best_top1
        if is_best:
            self.progress.best_epoch, self.progress.best_top1 = self.progress.epoch, metrics["test_top1"]
        self.progress.history.append(metrics)
        self.progress.seconds += metrics["train_seconds"] + metrics["test_seconds"]
        return metrics, is_best

    def check_finite(self) -> None:
        """Look whether all losses of the epoch under way were finite; waits for the device.

        Raises:
            DivergedError: One was not; the message says in which step, and what its parts were.
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
        """One optimiser step; returns the parts of the loss and `correct`, the accuracy on the batch."""
        parts, logits = self._averaged(batch)
        self._descend(parts)
        found = {name: value.detach() for name, value in parts.items()}
        found["correct"] = batch.shard.rescale((logits.detach().argmax(1) == batch.labels).float().mean())
        return found

    def _descend(self, parts: Parts) -> None:
        """Take a step along the gradient of the loss's parts."""
        if isinstance(self.optimizer, DOT):
            with self.clock("backward"):
                task = parts.get("cross_entropy", torch.zeros((), device=self.device))
                others = [value for name, value in parts.items() if name != "cross_entropy"]
                distillation = torch.stack(others).sum() if others else torch.zeros((), device=self.device)
                gradients = self.optimizer.backward(task, distillation)
                for each in gradients:
                    self._averaged.average(each)
            with self.clock("optimiser"):
                self.optimizer.apply(gradients)
            return
        with self.clock("backward"):
            loss = torch.stack(list(parts.values())).sum()
            self.optimizer.zero_grad(set_to_none=True)
            self._averaged.backward(loss)
        with self.clock("optimiser"):
            self.optimizer.step()

    def test(self) -> Metrics:
        """The network on the test set."""
        began = time.perf_counter()
        average_running_stats(self.comm, self.network)
        logits, labels = predict(self.network, self.test_batches, self.precision)
        figures = torch.stack(
            [top_k(logits, labels, 1), top_k(logits, labels, 5), nn.functional.cross_entropy(logits, labels)]
        ).tolist()
        names = ("test_top1", "test_top5", "test_loss")
        return {**dict(zip(names, figures, strict=True)), "test_seconds": time.perf_counter() - began}

    def state(self) -> dict[str, Any]:
        """The whole training state, for `restore`, on as many processes as one likes; all must ask for it at once."""
        average_running_stats(self.comm, self.network, self.objective)
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {**vars(self.progress), "history": list(self.progress.history)},
            "sums": self._sums.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a training state; every later step is what it would have been without the break."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._sums = EpochSums(self.device, **state["sums"], comm=self.comm).split()
