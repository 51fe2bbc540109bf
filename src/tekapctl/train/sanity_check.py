"""Try a training step with the size of an epoch's last batch before a run starts.

A batch norm with one value per channel raises, and a loss of distances between samples is NaN for a single sample.
Without this check a run would fail at the end of its first epoch.
"""

import math

import torch

from tekapctl.distributed.shard import spans
from tekapctl.errors import (
    TekapctlError,
    UsageError,
    counted,
    described,
    failures_in_words,
    lacking_memory,
    smaller_batches,
)
from tekapctl.train.diagnosis import copy_objective, preserve_buffers, preserve_rng
from tekapctl.train.step import TrainStep
from tekapctl.train.teacher import live_teacher
from tekapctl.train.trainer import Trainer

_MAX_SIZES = 100
"""Number of batch sizes to consider in each direction when looking for one that works."""
_MAX_STEPS = 8
"""Maximum number of steps to try, each with another number of images."""


class _NotFiniteError(Exception):
    """A loss is not finite."""

    def __str__(self) -> str:
        return f"the loss is not finite ({super().__str__()})"


class _NotTriedError(Exception):
    """A batch size was not tried: the method cannot be copied, or the maximum number of steps was reached."""


def check_batch_sizes(trainer: Trainer) -> None:
    """Check that a training step works with the last batch of an epoch.

    Network, objective, random generators and caches stay as they are. All processes must call this together.

    Raises:
        UsageError: The step fails; the message names batch sizes that work.
        TekapctlError: The device runs out of memory.
    """
    size = trainer.spec.batch_size
    with failures_in_words(f"batches of {size}", smaller=smaller_batches(size)):
        _BatchSizeCheck(trainer).check()


class _BatchSizeCheck:
    """Tries steps with batches of several sizes."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.images = len(trainer.train_batches.image_set)
        self.batch_size = min(trainer.spec.batch_size, self.images)
        self._problems: dict[int, Exception | None] = {}

    def check(self) -> None:
        """Raise an error if a step with the last batch of an epoch fails."""
        self._check_image_size()
        last = self._last(self.batch_size)
        problem = self._problem(last)
        if problem is None:
            return
        full_batch_problem = self._problem(self.batch_size)
        works = self._working_sizes()
        if not works and full_batch_problem is not None:
            if isinstance(full_batch_problem, _NotFiniteError):
                return  # not a matter of the batch size: training reports the step and the remedy
            raise UsageError(
                f"A training step fails with this network and method: {_description(full_batch_problem)}.",
                "`debug` shows where it was raised.",
            ) from full_batch_problem
        which = "Each batch has" if full_batch_problem is not None else f"Of {self.images:,} images, the last batch has"
        count = self.batch_size if full_batch_problem is not None else last
        raise UsageError(
            f"{which} {counted(count, 'image')}, with which a training step fails: {_description(problem)}.",
            f"Set `batch_size` to {' or '.join(map(str, works))}." if works else "Use a dataset with more images.",
        ) from problem

    def _check_image_size(self) -> None:
        """Run the network in evaluation mode first, to tell an unsuitable image size from an unsuitable batch size."""
        network = self.trainer.network
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad(), preserve_rng(self.trainer.device):
                for batches in (self.trainer.train_batches, self.trainer.eval_batches):
                    network(network.normalize(batches.probe(2)))
        except TekapctlError:
            raise
        except Exception as error:
            if lacking_memory(error) is not None:
                raise
            raise UsageError(
                f"The network {self.trainer.spec.network} cannot be used with these images: {described(error)}.",
                "`debug` shows where it was raised.",
            ) from error
        finally:
            network.train(was_training)

    def _last(self, size: int) -> int:
        """Size of an epoch's last batch, for a batch size."""
        return self.images % size or size

    def _working_sizes(self) -> list[int]:
        """The nearest smaller and the nearest larger batch size with which all steps work."""
        found = []
        for sizes in (range(self.batch_size - 1, 0, -1), range(self.batch_size + 1, self.images + 1)):
            for size in sizes[:_MAX_SIZES]:
                # Do not try larger batches than the given size: memory might not suffice.
                others = () if size > self.batch_size else (size,)
                if all(self._problem(count) is None for count in (self._last(size), *others)):
                    found.append(size)
                    break
        return found

    def _problem(self, count: int) -> Exception | None:
        """The error of a step with this many images, or with the smallest part of them that a process gets."""
        shares = spans(count, self.trainer.comm.world_size)
        count = min(end - first for first, end in shares)
        if count not in self._problems and len(self._problems) == _MAX_STEPS:
            return _NotTriedError()
        if count not in self._problems:
            try:
                self._step(count)
                self._problems[count] = None
            except TekapctlError:
                raise
            except _NotTriedError:
                self._problems[count] = None
            except Exception as error:  # a user's network or method may raise anything
                if lacking_memory(error) is not None:
                    raise
                self._problems[count] = error
        return self._problems[count]

    def _step(self, count: int) -> None:
        trainer = self.trainer
        network, device = trainer.network, trainer.device
        try:
            objective = copy_objective(trainer.objective, trainer.comm)
        except Exception as error:
            raise _NotTriedError from error
        for member in objective.distillations:
            member.teacher = live_teacher(member.teacher)
        train_step = TrainStep(network, objective, device, trainer.precision, compiled=False)
        batch = trainer.train_batches.sample(count, strong=objective.requires.strong_view)
        was_training = network.training
        try:
            with preserve_rng(device), preserve_buffers(network):
                for init_stage in (True, False) if trainer.spec.init_epochs else (False,):
                    objective.init_stage = init_stage
                    network.train(objective.trains_learner)
                    objective.train()
                    _backward(train_step(batch)[0], train_step)
        finally:
            network.train(was_training)


def _description(problem: Exception) -> str:
    return str(problem) if isinstance(problem, _NotFiniteError) else described(problem)


def _backward(parts: dict[str, torch.Tensor], train_step: TrainStep) -> None:
    """Run the backward pass, discard the gradients, and check that the loss is finite."""
    loss = torch.stack(list(parts.values())).sum()
    trained = [parameter for parameter in train_step.parameters() if parameter.requires_grad]
    torch.autograd.grad(loss, trained, allow_unused=True)
    values = {name: value.item() for name, value in parts.items()}
    if not all(map(math.isfinite, values.values())):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise _NotFiniteError(shown)
