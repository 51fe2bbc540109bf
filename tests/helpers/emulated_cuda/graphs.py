"""CUDA graphs on the emulated device: operators are recorded with their memory, and run again on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from helpers.emulated_cuda.kernels import ALLOCATIONS, tensors_in
from helpers.emulated_cuda.tensors import is_older, next_number

if TYPE_CHECKING:
    from helpers.emulated_cuda.device import EmulatedGPU
    from helpers.emulated_cuda.tensors import EmulatedGenerator


_REGISTERS_ITSELF = TorchVersion(torch.__version__) >= "2.14"


@dataclass(frozen=True)
class _Recorded:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def run(self) -> None:
        """Run the operator again, with its result in the same memory."""
        results = zip(tensors_in(self.result), tensors_in(self.function(*self.args, **self.kwargs)), strict=True)
        for before, after in results:
            if before.shape != after.shape:
                raise RuntimeError(f"{self.function} has a result of another shape when it is replayed")
            if before.data_ptr() != after.data_ptr():
                before.copy_(after)


class EmulatedGraph:
    """What `torch.cuda.CUDAGraph` does on a device.

    A capture computes nothing: memory from before it is as it was, and its own holds no values until the first replay.
    """

    def __init__(self, gpu: EmulatedGPU) -> None:
        self.gpu = gpu
        self.generators: list[EmulatedGenerator] = []
        self._operators: list[_Recorded] = []
        self._own: dict[int, torch.UntypedStorage] = {}
        self._began = 0
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def register_generator_state(self, generator: EmulatedGenerator) -> None:
        """Allow the graph to draw from a generator, whose state it reads at each replay."""
        self.generators.append(generator)

    def knows(self, generator: Any) -> bool:
        """Whether a generator is registered; operators get other Python objects for it.

        From PyTorch 2.14 on, graphs register what they draw from. One that is made in the capture is refused even so:
        nobody could seed it before a replay.
        """
        if any(each._cdata == generator._cdata for each in self.generators):  # type: ignore[attr-defined]
            return True
        return _REGISTERS_ITSELF and is_older(generator, self._began)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Record what runs in this context."""
        self.gpu.record("wait for the device", "torch.cuda.graph")
        state, self._began = torch.get_rng_state(), next_number()
        self.gpu.capturing = self
        try:
            yield
        finally:
            self.gpu.capturing = None
            torch.set_rng_state(state)
            with torch._C._DisableTorchDispatch():
                for storage, content in self._before.values():
                    storage.copy_(content)
                for storage in self._own.values():
                    storage.fill_(255)  # type: ignore[attr-defined] # not a number
            self._before.clear()
        self.gpu.captures += 1

    def run(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operator of the CPU and run it."""
        for each in _written(name, function, args, kwargs):
            storage = each.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        known = {each.untyped_storage().data_ptr() for each in tensors_in((args, kwargs))}
        result = function(*args, **kwargs)
        for each in tensors_in(result):
            storage = each.untyped_storage()
            if storage.data_ptr() not in known:
                self._own[storage.data_ptr()] = storage
        if name not in ALLOCATIONS:
            self._operators.append(_Recorded(function, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run all operators again on the same memory."""
        self.gpu.replays += 1
        self.gpu.kernels["graph"] += 1
        with torch._C._DisableTorchDispatch():
            for each in self._operators:
                each.run()


def _written(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The operands that an operator writes to."""
    if name in ("native_batch_norm", "cudnn_batch_norm"):
        return tensors_in(args[3:5])  # the running statistics
    if not hasattr(function, "_schema"):  # stands in for an operator that only CUDA has, and computes a new tensor
        return []
    arguments = function._schema.arguments
    given = dict(zip((each.name for each in arguments), args, strict=False)) | kwargs
    writes = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    return tensors_in([given[each] for each in writes if each in given])


class EmulatedStream:
    """A stream: here all work is done in order."""

    def wait_stream(self, stream: EmulatedStream) -> None:
        """Wait for another stream."""
