"""Puts the emulated device into PyTorch in the place of CUDA's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._pytree import tree_map

from helpers.emulated_cuda.autograd import run_backward
from helpers.emulated_cuda.device import EmulatedGPU
from helpers.emulated_cuda.graphs import EmulatedGraph, EmulatedStream
from helpers.emulated_cuda.tensors import EmulatedGenerator, EmulatedTensor, load_on_cpu

NAME = "NVIDIA H100 80GB HBM3"
_MEMORY = 80 * 2**30
_PROPERTIES = SimpleNamespace(
    name=NAME, total_memory=_MEMORY, major=9, minor=0, multi_processor_count=132, L2_cache_size=50 * 2**20, uuid="0"
)


@contextmanager
def emulated_cuda() -> Iterator[EmulatedGPU]:
    """Run with an emulated GPU as `cuda:0`."""
    gpu = EmulatedGPU()
    torch._C._ensureCUDADeviceGuardSet()
    torch.serialization.add_safe_globals([load_on_cpu])
    # Tensors made from lists or numbers are copied to the device by an operator that the emulation sees.
    lifts_only_cpu = torch._C._only_lift_cpu_tensors()
    # Parameters cannot be moved to the device in place.
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in _runtime(gpu).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", EmulatedGenerator))
        stack.enter_context(mock.patch.object(torch, "load", _loader(torch.load)))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", run_backward))
        for module in (optimizer, _foreach_utils):
            types = [*module._foreach_supported_types, EmulatedTensor]
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", types))
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts_only_cpu)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(gpu)
        yield gpu


def _loader(load: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.load` that moves tensors to the emulated device if `map_location` is CUDA."""

    def loaded(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        if map_location is None or torch.device(map_location).type != "cuda":
            return load(*args, map_location=map_location, **kwargs)
        found = load(*args, map_location="cpu", **kwargs)
        return tree_map(lambda each: each.to("cuda") if isinstance(each, torch.Tensor) else each, found)

    return loaded


def _runtime(gpu: EmulatedGPU) -> dict[str, Any]:
    """The functions of `torch.cuda` that the program, or PyTorch for it, calls."""

    def always(value: Any) -> Any:
        """A new function each time: torch.compile keeps a rule for each."""
        return lambda *_, **__: value

    return {
        "_lazy_init": always(None),
        "_is_in_bad_fork": always(False),
        "is_available": always(True),
        "is_initialized": always(True),
        "is_bf16_supported": always(True),
        "is_current_stream_capturing": lambda: gpu.capturing is not None,
        "graph_pool_handle": always((0, 1)),
        "CUDAGraph": lambda: EmulatedGraph(gpu),
        "graph": lambda graph, **_: graph.capture(),
        "Stream": lambda *_: EmulatedStream(),
        "current_stream": lambda *_: EmulatedStream(),
        "stream": lambda _: nullcontext(),
        "device_count": always(1),
        "current_device": always(0),
        "set_device": always(None),
        "get_device_name": always(NAME),
        "get_device_capability": always((9, 0)),
        "get_device_properties": always(_PROPERTIES),
        "mem_get_info": always((_MEMORY, _MEMORY)),
        "memory_allocated": always(0),
        "max_memory_allocated": always(0),
        "reset_peak_memory_stats": always(None),
        "empty_cache": always(None),
        "manual_seed": always(None),
        "manual_seed_all": always(None),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": always(None),
        "synchronize": lambda *_: gpu.record("wait for the device", "torch.cuda.synchronize"),
    }
