"""The emulated device: sees every operator, checks it by CUDA's rules, and lets the CPU compute it."""

import functools
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

import tekapctl
from helpers.emulated_cuda.graphs import EmulatedGraph
from helpers.emulated_cuda.kernels import (
    INDEXING,
    READS,
    RESHAPED_IN_PLACE,
    SHAPED_BY_VALUES,
    SOLVERS,
    count_kernels,
    tensors_in,
)
from helpers.emulated_cuda.tensors import CPU, EmulatedTensor, claimed_device

_aten = torch.ops.aten
_PROGRAM = str(Path(tekapctl.__file__).parent)


@dataclass(frozen=True)
class Event:
    """Something that the host did with the device, other than launching a kernel.

    Attributes:
        kind: What it was.
        operator: The operator or function.
        where: The lines of the program that caused it, the innermost first.
    """

    kind: str
    operator: str
    where: str

    @property
    def waits(self) -> bool:
        """Whether the host waited for the device."""
        return self.kind != "queued copy"

    def __str__(self) -> str:
        return f"{self.kind} ({self.operator}) at {self.where}"


class EmulatedGPU(TorchDispatchMode):
    """The device `cuda:0`, and what was asked of it.

    Attributes:
        events: What the host did, other than launching kernels.
        kernels: Kernels launched, by operator; a graph is one.
        captures: Graphs captured.
        replays: Graphs replayed.
        capturing: The graph that is captured now.
    """

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._pinned = WeakIdKeyDictionary()
        self.captures = self.replays = 0
        self.capturing: EmulatedGraph | None = None
        self.reset()

    def reset(self) -> None:
        """Forget events and kernels."""
        self.events: list[Event] = []
        self.kernels: Counter[str] = Counter()

    def record(self, kind: str, operator: str) -> None:
        """Record an event.

        Raises:
            RuntimeError: A graph is captured, which has kernels only.
        """
        event = Event(kind, operator, _where())
        self.events.append(event)
        if self.capturing is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {event}")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(function, args, kwargs or {})

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator by CUDA's rules."""
        name = function._schema.name.split("::")[1]
        operands = tensors_in((args, kwargs))
        is_ours = any(isinstance(each, EmulatedTensor) for each in operands)
        if name in ("_pin_memory", "pin_memory", "is_pinned") or (kwargs.get("pin_memory") and not is_ours):
            return self._pin(name, function, args, kwargs)
        wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if not is_ours and (wanted is None or wanted.type != "cuda"):
            self._check_generators((*args, *kwargs.values()), CPU)
            return function(*args, **kwargs)
        if is_ours and _is_composite(function):  # arrives whole where no gradients are computed
            with self:
                return function.decompose(*args, **kwargs)
        device = self._device_of(name, args, operands, wanted)
        self._check_generators((*args, *kwargs.values()), device)
        self._record_waiting(name, args, kwargs, device)
        if self.capturing is None:
            self.kernels[name] += count_kernels(name, args)
        return self._compute(name, function, args, kwargs, device)

    def _pin(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "is_pinned":
            return args[0] in self._pinned
        if name.endswith("pin_memory"):
            made = args[0].clone()
        else:
            made = function(*args, **{key: value for key, value in kwargs.items() if key != "pin_memory"})
        self._pinned[made] = True
        return made

    def _compute(
        self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
    ) -> Any:
        """Let the CPU compute an operator."""
        known: dict[int, EmulatedTensor] = {}

        def to_inner(value: Any) -> Any:
            if not isinstance(value, EmulatedTensor):
                return value
            known[id(value.content)] = value
            return value.content

        inner_args, inner_kwargs = tree_map(to_inner, args), tree_map(to_inner, kwargs)
        for key, value in (("device", CPU), ("non_blocking", False), ("pin_memory", None)):
            if inner_kwargs.get(key) is not None:
                inner_kwargs[key] = value
        on_cpu = _on_cpu(name, function)
        if self.capturing is None:
            found = on_cpu(*inner_args, **inner_kwargs)
        else:
            found = self.capturing.run(name, on_cpu, inner_args, inner_kwargs)
        if name in RESHAPED_IN_PLACE:
            with torch._C._DisableTorchDispatch():
                function(*args, **kwargs)

        def to_outer(value: Any) -> Any:
            if not isinstance(value, Tensor) or device == CPU:
                return value
            return known[id(value)] if id(value) in known else EmulatedTensor(value, self)

        return tree_map(to_outer, found)

    def _device_of(
        self, name: str, args: tuple[Any, ...], operands: list[Tensor], wanted: torch.device | None
    ) -> torch.device:
        """The device of the result.

        Raises:
            RuntimeError: The operands are on different devices.
        """
        if wanted is not None:
            return self.device if wanted.type == "cuda" else wanted
        if name in ("copy_", "_to_copy", "set_", "lift_fresh"):
            return args[0].device
        if name in INDEXING:
            device: torch.device = args[0].device
            values = [args[2]] if len(args) > 2 and args[2].dim() else []
            if any(each.device not in (device, CPU) for each in tensors_in(args[1])):
                raise RuntimeError(f"indices should be either on {device} or on the CPU ({name} at {_where()})")
            if any(each.device != device for each in values):
                raise RuntimeError(f"the values of {name} are not on {device} ({_where()})")
            return device
        devices = {each.device for each in operands if each.dim()} or {each.device for each in operands}
        if len(devices) > 1 and any(each.dim() for each in operands):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {sorted(map(str, devices))} ({name} at "
                f"{_where()})"
            )
        device = self.device if self.device in devices else CPU
        if device == CPU and any(isinstance(each, EmulatedTensor) for each in operands):
            raise RuntimeError(f"a scalar on {self.device} meets tensors on the CPU ({name} at {_where()})")
        return device

    def _record_waiting(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> None:
        if name in READS:
            self.record("read", name)
        elif name in SHAPED_BY_VALUES:
            self.record("shape from values", name)
        elif name in SOLVERS:
            self.record("status of a solver", name)
        elif name in ("masked_fill", "masked_fill_") and isinstance(args[2], Tensor) and args[2].device != CPU:
            self.record("read", f"{name} with a value on the device")
        elif name in INDEXING:
            self._record_index(name, args)
        elif name == "_to_copy":
            self._record_copy(name, args[0].device, device, bool(kwargs.get("non_blocking")))
        elif name == "copy_":
            is_queued = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            self._record_copy(name, args[1].device, device, bool(is_queued))

    def _record_copy(self, name: str, source: torch.device, target: torch.device, is_queued: bool) -> None:
        if source == target:
            return
        if target == CPU:
            self.record("copy to the host", name)
        else:
            self.record("queued copy" if is_queued else "blocking copy to the device", name)

    def _record_index(self, name: str, args: tuple[Any, ...]) -> None:
        if args[0].device == CPU:
            return
        for index in tensors_in(args[1]):
            if index.device == CPU:
                self.record("blocking copy to the device", f"{name} with an index on the CPU")
            if index.dtype in (torch.bool, torch.uint8):
                # A constant is filled in by a mask; anything else needs the places.
                fills = name != "index" and args[2].numel() == 1 and args[2].device == CPU
                if not fills:
                    self.record("shape from values", f"{name} with a mask")

    def _check_generators(self, values: Iterable[Any], device: torch.device) -> None:
        for value in tree_flatten(list(values))[0]:
            if not isinstance(value, torch._C.Generator):
                continue
            claimed = claimed_device(value)
            if claimed.type != device.type:
                raise RuntimeError(
                    f"Expected a '{device.type}' device type for generator but found '{claimed.type}' ({_where()})"
                )
            if device != CPU and self.capturing is not None and not self.capturing.knows(value):
                raise RuntimeError(f"a generator that is not registered with the captured graph ({_where()})")


@functools.cache
def _is_composite(function: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"))


def _on_cpu(name: str, function: Any) -> Any:
    """The CPU's operator for one that only CUDA has."""
    return {
        "cudnn_batch_norm": _batch_norm,
        "cudnn_batch_norm_backward": _batch_norm_backward,
        "cudnn_convolution_relu": _convolution_relu,
        "cudnn_convolution_add_relu": _convolution_add_relu,
    }.get(name, function)


def _convolution_relu(pixels: Tensor, weight: Tensor, bias: Tensor, *sizes: Any) -> Tensor:
    return _aten.relu(_aten.conv2d(pixels, weight, bias, *sizes))


def _convolution_add_relu(
    pixels: Tensor, weight: Tensor, other: Tensor, alpha: float, bias: Tensor, *sizes: Any
) -> Tensor:
    found = _aten.conv2d(pixels, weight, bias, *sizes)
    assert found.shape == other.shape, "cuDNN would read beyond the end of the smaller one"
    return _aten.relu(found + alpha * other)


def _batch_norm(
    pixels: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, trains: bool, momentum: float, eps: float
) -> tuple[Tensor, ...]:
    found = _aten.native_batch_norm(pixels, weight, bias, mean, var, trains, momentum, eps)
    return *found, torch.empty(0, dtype=torch.uint8)


def _batch_norm_backward(
    pixels: Tensor,
    gradient: Tensor,
    weight: Tensor,
    mean: Tensor,
    var: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    eps: float,
    _: Tensor,
) -> Any:
    wanted = [True, True, True]
    return _aten.native_batch_norm_backward(
        gradient, pixels, weight, mean, var, batch_mean, batch_var, True, eps, wanted
    )


def _where() -> str:
    """The two innermost lines of the program, or of whoever called."""
    lines: list[str] = []
    frame = sys._getframe(1)
    while frame is not None and len(lines) < 2:
        file = frame.f_code.co_filename
        if file.startswith(_PROGRAM):
            lines.append(f"{file.removeprefix(_PROGRAM).lstrip('/')}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines) or "a test"
