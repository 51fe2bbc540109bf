"""Takes a step for nothing before a run begins, with as many images as the last batch of an epoch has.

A batch norm that gets one value a channel raises, a loss of distances between samples is no number where there is one
sample: without this a run would find out at the end of its first epoch.
"""

import math

import torch

from tekapctl.distributed.shard import spans
from tekapctl.errors import TekapctlError, UsageError, described, failures_in_words, lacking_memory, smaller_batches
from tekapctl.train.diagnosis import buffers_kept, copied, random_numbers_kept
from tekapctl.train.step import TrainStep
from tekapctl.train.teacher import live_teacher
from tekapctl.train.trainer import Trainer

_MOST_SIZES = 100
"""Batch sizes that are looked at, in each direction, for one that works."""
_MOST_STEPS = 8
"""Steps that are taken at most, each with another number of images."""


class _NotFiniteError(Exception):
    """A loss is not finite."""

    def __str__(self) -> str:
        return f"the loss is not finite ({super().__str__()})"


class _NotTriedError(Exception):
    """Nothing is known of a batch: a method of the user's own cannot be copied, or enough steps were taken."""


def check_batch_sizes(trainer: Trainer) -> None:
    """Check that a step can be taken with the last batch of an epoch.

    Learner, objective and random generators are as before afterwards, and no cache has learned anything. Of several
    processes all must ask at once.

    Args:
        trainer: The trainer, before its first step.

    Raises:
        UsageError: It cannot; the message names batch sizes with which it can.
        TekapctlError: The device's memory does not suffice.
    """
    size = trainer.spec.batch_size
    with failures_in_words(f"batches of {size}", smaller=smaller_batches(size)):
        _Trial(trainer).check()


class _Trial:
    """Steps with batches of several sizes.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.images = len(trainer.train_batches.image_set)
        self.batch_size = min(trainer.spec.batch_size, self.images)
        self._problems: dict[int, Exception | None] = {}

    def check(self) -> None:
        """Raise if the last batch of an epoch is one that no step can be taken with."""
        self._look()
        last = self._last(self.batch_size)
        problem = self._problem(last)
        if problem is None:
            return
        of_all = self._problem(self.batch_size)
        works = self._working_sizes()
        if not works and of_all is not None:
            if isinstance(of_all, _NotFiniteError):
                return  # it is not the batch: training says in which step, and what helps
            raise UsageError(
                f"No step can be taken with this network and method: {_told(of_all)}.",
                "--debug shows where it was raised.",
            ) from of_all
        which = "Each batch has" if of_all is not None else f"Of {self.images:,} images, the last batch has"
        count = self.batch_size if of_all is not None else last
        images = f"{count:,} image{'s' if count > 1 else ''}"
        raise UsageError(
            f"{which} {images}, with which no step can be taken: {_told(problem)}.",
            f"Use --batch-size {' or '.join(map(str, works))}." if works else "Use a data set of more images.",
        ) from problem

    def _look(self) -> None:
        """Let the network see images as in a test first, so that it can say if it is their size that does not fit."""
        network = self.trainer.network
        was_training = network.training
        network.eval()
        try:
            with torch.no_grad(), random_numbers_kept(self.trainer.device):
                network(network.normalize(self.trainer.train_batches.probe(2)))
        except TekapctlError:
            raise
        except Exception as error:
            if lacking_memory(error) is not None:
                raise
            raise UsageError(
                f"The network {self.trainer.spec.network} cannot be used with these images: {described(error)}.",
                "--debug shows where it was raised.",
            ) from error
        finally:
            network.train(was_training)

    def _last(self, size: int) -> int:
        """Images in the last batch of an epoch in batches of a size."""
        return self.images % size or size

    def _working_sizes(self) -> list[int]:
        """The nearest smaller and the nearest larger batch size with which all steps can be taken."""
        found = []
        for sizes in (range(self.batch_size - 1, 0, -1), range(self.batch_size + 1, self.images + 1)):
            for size in sizes[:_MOST_SIZES]:
                # A batch of more images than one that was tried would take memory that there may not be.
                others = () if size > self.batch_size else (size,)
                if all(self._problem(count) is None for count in (self._last(size), *others)):
                    found.append(size)
                    break
        return found

    def _problem(self, count: int) -> Exception | None:
        """What goes wrong in a step with so many images, or with the smallest share of them that a process has."""
        shares = spans(count, self.trainer.comm.size)
        count = min(end - first for first, end in shares)
        if count not in self._problems and len(self._problems) == _MOST_STEPS:
            return _NotTriedError()
        if count not in self._problems:
            try:
                self._step(count)
                self._problems[count] = None
            except TekapctlError:
                raise
            except _NotTriedError:
                self._problems[count] = None
            except Exception as error:  # a network or method of the user's own may raise anything
                if lacking_memory(error) is not None:
                    raise
                self._problems[count] = error
        return self._problems[count]

    def _step(self, count: int) -> None:
        trainer = self.trainer
        network, device = trainer.network, trainer.device
        try:
            objective = copied(trainer.objective, trainer.comm)
        except Exception as error:
            raise _NotTriedError from error
        for member in objective.distillations:
            member.teacher = live_teacher(member.teacher)
        learning = TrainStep(network, objective, device, trainer.precision, compiled=False)
        batch = trainer.train_batches.sample(count, strong=objective.requires.strong_view)
        was_training = network.training
        try:
            with random_numbers_kept(device), buffers_kept(network):
                for init_stage in (True, False) if trainer.spec.init_epochs else (False,):
                    objective.init_stage = init_stage
                    network.train(objective.trains_learner)
                    objective.train()
                    _descend(learning(batch)[0], learning)
        finally:
            network.train(was_training)


def _told(problem: Exception) -> str:
    return str(problem) if isinstance(problem, _NotFiniteError) else described(problem)


def _descend(parts: dict[str, torch.Tensor], learning: TrainStep) -> None:
    """The backward pass, whose gradients nobody keeps."""
    loss = torch.stack(list(parts.values())).sum()
    trained = [parameter for parameter in learning.parameters() if parameter.requires_grad]
    torch.autograd.grad(loss, trained, allow_unused=True)
    values = {name: value.item() for name, value in parts.items()}
    if not all(map(math.isfinite, values.values())):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise _NotFiniteError(shown)
