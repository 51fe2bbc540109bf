"""Tensors and random generators that claim to be on another device than the CPU."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from helpers.emulated_cuda.device import EmulatedGPU

CPU = torch.device("cpu")


class EmulatedTensor(Tensor):
    """A tensor that claims to be on a device; its values are in `content`, on the CPU."""

    content: Tensor
    gpu: EmulatedGPU

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[EmulatedTensor], content: Tensor, gpu: EmulatedGPU) -> EmulatedTensor:
        made: EmulatedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            layout=content.layout,
            device=gpu.device,
            requires_grad=False,
            storage_size=content.untyped_storage().nbytes(),
        )
        made.content, made.gpu = content, gpu
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Only called outside the emulation, by the device that the tensors are on."""
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
        gpu = next(value.gpu for value in flat if isinstance(value, EmulatedTensor))
        return gpu.run(function, args, kwargs or {})

    def tolist(self) -> Any:
        self.gpu.record("copy to the host", "tolist")
        return self.content.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy.")

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"EmulatedTensor({self.content!r}, device={self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.gpu.record("copy to the host", "pickle")
        return load_on_cpu, (self.content.detach().clone(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made: Any = self.detach().clone()
            if getattr(self, "_is_param", False):
                made = torch.nn.Parameter(made, self.requires_grad)
            memo[id(self)] = made
        return memo[id(self)]


def load_on_cpu(values: Tensor) -> Tensor:
    """What a pickled tensor becomes; as with `map_location`, the reader decides where it is moved."""
    return values


_CLAIMS: dict[int, torch.device] = {}
_BORN: dict[int, int] = {}
_NUMBERS = itertools.count()


class EmulatedGenerator(torch._C.Generator):
    """A CPU generator that claims a device."""

    claimed: torch.device

    def __new__(cls, device: torch.device | str = CPU) -> EmulatedGenerator:
        made: EmulatedGenerator = super().__new__(cls, CPU)  # type: ignore[call-arg]
        made.claimed = torch.device(device)
        # Operators get another Python object for the same generator.
        _CLAIMS[made._cdata] = made.claimed  # type: ignore[attr-defined]
        _BORN[made._cdata] = next(_NUMBERS)  # type: ignore[attr-defined]
        weakref.finalize(made, _CLAIMS.pop, made._cdata, None)  # type: ignore[attr-defined]
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claimed


def is_older(generator: Any, number: int) -> bool:
    """Whether a generator was made before `next_number` returned a number."""
    return _BORN.get(generator._cdata, -1) < number


def next_number() -> int:
    """A number between those of the generators made before and after."""
    return next(_NUMBERS)


def claimed_device(generator: Any) -> torch.device:
    """The device that a generator claims."""
    return _CLAIMS.get(generator._cdata, CPU)
