"""A training step, recorded as a CUDA graph and replayed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from tekapctl.data.batch import Batch
from tekapctl.distillation.objective import Objective
from tekapctl.models import Network
from tekapctl.models.hooks import ExternalNetwork
from tekapctl.models.knowledge import Knowledge
from tekapctl.optim.optimizer import Optimizer
from tekapctl.randomness import RecordedGenerators, Step
from tekapctl.train.teacher import LiveTeacher

_REGISTERS_ITSELF = TorchVersion(torch.__version__) >= "2.14"
"""Whether a graph finds the generators that it draws from, as PyTorch does since #176753."""
_CLEANS_UP = TorchVersion(torch.__version__) >= "2.13"
"""Whether PyTorch returns the memory of a recording that failed."""
Constants = tuple[object, ...]


@runtime_checkable
class Training(Protocol):
    """What is recorded: the work of a `Trainer`."""

    device: torch.device
    network: Network
    objective: Objective
    optimizer: Optimizer

    def learn(self, batch: Batch) -> None:
        """The forward and backward pass of a batch, whose parts of the loss are added to the sums."""

    def update(self, batch: Batch) -> None:
        """The optimizer's step."""


class Recording:
    """A kind of step: the random numbers that it draws, the memory of its inputs, and its graph.

    The batch is that of a first step, which is taken without a graph.
    """

    def __init__(self, trainer: Training, batch: Batch) -> None:
        self.trainer = trainer
        self.graph: torch.cuda.CUDAGraph | None = None
        self._generators = RecordedGenerators()
        # Stated by the class itself: one that is derived from it may do more on the host.
        self._records_update = vars(type(trainer.optimizer)).get("is_recordable", False)
        # Other teachers read files, are shared with other students, or may do anything on the host.
        self._asked_before = [
            member
            for member in trainer.objective.distillations
            if member.needs_teacher and not _is_recordable(member.teacher)
        ]
        with self._answering(self._ask(batch)), self._generators.finding():
            self._work(replace(batch, step=Step(batch.step)))
        if not self._records_update:
            trainer.update(batch)

    def record(self, batch: Batch) -> None:
        """Record a step on the current stream, without taking it.

        Raises:
            RuntimeError: The step waits for the device, copies from the host, draws other numbers than the first, or
                changes what is not on the device; or the graph takes most of the memory.
        """
        inputs: dict[str, Any] = {name: tensor.clone() for name, tensor in _on_device(batch).items()}
        self._batch = replace(batch, step=Step(batch.step), **inputs)
        self._knowledge = [knowledge.map(torch.clone) for knowledge in self._ask(batch)]
        self.trainer.optimizer.zero_grad()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()
        before = torch.cuda.mem_get_info(self.trainer.device)[0]
        with self._answering(self._knowledge), self._generators.recording(self.trainer.device):
            if not _REGISTERS_ITSELF:
                for source in self._generators.all:
                    graph.register_generator_state(source)
            # Other threads, such as those that read images, may use the device meanwhile.
            stream = torch.cuda.current_stream()
            with (
                _released_on_failure(self.trainer.device, pool),
                _unchanged(self.trainer.network, self.trainer.objective),
                torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
            ):
                self._work(self._batch)
        left = torch.cuda.mem_get_info(self.trainer.device)[0]
        if left < before - left:  # ragged batches need as much again, at most
            raise RuntimeError(f"the graph takes {(before - left) / 2**30:.1f} GiB and leaves {left / 2**30:.1f} GiB")
        groups = self.trainer.optimizer.param_groups
        self._gradients = [(parameter, parameter.grad) for group in groups for parameter in group["params"]]
        self.graph = graph

    def replay(self, batch: Batch) -> None:
        """Take a step."""
        assert self.graph is not None
        given = _on_device(batch)
        for name, tensor in _on_device(self._batch).items():
            tensor.copy_(given[name])
        for knowledge, found in zip(self._knowledge, self._ask(batch), strict=True):
            for tensor, value in zip(_tensors(knowledge), _tensors(found), strict=True):
                tensor.copy_(value)
        self._generators.seed(batch.step)
        self.graph.replay()
        if not self._records_update:
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
            self.trainer.update(batch)

    def _work(self, batch: Batch) -> None:
        self.trainer.learn(batch)
        if self._records_update:
            self.trainer.update(batch)

    @torch.no_grad()
    def _ask(self, batch: Batch) -> list[Knowledge]:
        return [member.teacher(batch) for member in self._asked_before]

    @contextmanager
    def _answering(self, knowledge: Sequence[Knowledge]) -> Iterator[None]:
        """In this context the teachers that were asked before answer with their knowledge of the batch."""
        teachers = [member.teacher for member in self._asked_before]
        for member, known in zip(self._asked_before, knowledge, strict=True):
            member.teacher = partial(_answer, known)
        try:
            yield
        finally:
            for member, teacher in zip(self._asked_before, teachers, strict=True):
                member.teacher = teacher


@contextmanager
def _released_on_failure(device: torch.device, pool: Any) -> Iterator[None]:
    """Return the memory of a recording that fails in this context, which older PyTorch keeps for ever."""
    try:
        yield
    except Exception:
        if not _CLEANS_UP:
            for release in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
                with suppress(Exception):  # internal functions: what fails here costs memory, not the run
                    getattr(torch._C, release)(device.index, pool)
        raise


@contextmanager
def _unchanged(*roots: nn.Module) -> Iterator[None]:
    """Check that this context changes nothing of modules but the values of their tensors on the device.

    A replay runs no Python: a counter would stop, and a tensor that replaces another one would be lost.

    Raises:
        RuntimeError: Something else was changed; it is as before again.
    """
    modules = [module for root in roots for module in root.modules()]
    held: list[dict[str, Any]] = [values for module in modules for values in (vars(module), module._buffers)]
    before = [
        {name: value for name, value in values.items() if value is None or isinstance(value, Tensor | int | float)}
        for values in held
    ]
    on_host = [value for values in before for value in values.values() if _is_on_host(value)]
    contents = [tensor.clone() for tensor in on_host]
    changed = ""
    try:
        yield
    finally:
        for values, old in zip(held, before, strict=True):
            changed = next((name for name, value in old.items() if _differ(values.get(name), value)), changed)
            values.update(old)
        for tensor, content in zip(on_host, contents, strict=True):
            if not tensor.equal(content):
                changed = "a tensor"
                tensor.copy_(content)
    if changed:
        raise RuntimeError(f"a step changes {changed} on the host")


def _is_on_host(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _differ(one: object, other: object) -> bool:
    return one is not other and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)


def _answer(knowledge: Knowledge, _: Batch) -> Knowledge:
    return knowledge


def kind(batch: Batch) -> Constants:
    """What is equal in batches for which one graph is replayed."""
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in _on_device(batch).items())


def _on_device(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch that are on the device, by name."""
    values: dict[str, Any] = {each.name: getattr(batch, each.name) for each in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.device.type != "cpu"}


def _tensors(knowledge: Knowledge) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    knowledge.map(keep)
    return found


def _is_recordable(teacher: object) -> bool:
    """Whether a teacher's forward pass can be a part of a graph."""
    return isinstance(teacher, LiveTeacher) and not is_external(teacher.network)


def is_external(network: Network) -> bool:
    """Whether a network, or a part of it, comes from another package."""
    networks = [module for module in network.modules() if isinstance(module, Network)]
    return any(isinstance(each, ExternalNetwork) or not is_ours(each) for each in networks)


def is_ours(part: object) -> bool:
    """Whether a part is this package's own."""
    return type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
