"""What a training step does to each layer of a network, in one kernel for all layers instead of one for each."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tekapctl.distributed.communicator import was_launched


@contextmanager
def layers_together(modules: Iterable[nn.Module]) -> Iterator[None]:
    """On CUDA, cast all weights to autocast's precision, and count the batch in all batch norms, for the block.

    Each of the layers runs once in the block.
    """
    modules = list(modules)
    with _cast_together(modules), _counted_together(modules):
        yield


@contextmanager
def _cast_together(modules: list[nn.Module]) -> Iterator[None]:
    """Cast the parameters of convolutions and linear layers, which autocast would do one by one."""
    layers = [module for module in modules if type(module) in (nn.Conv2d, nn.Linear)]
    found = [
        (module._parameters, name, parameter)
        for module in layers
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.requires_grad and parameter.dtype == torch.float32
    ]
    # With several processes, gradients are averaged while others are computed: they must not all be ready at once.
    if not (found and torch.is_autocast_enabled("cuda")) or was_launched():
        yield
        return
    cast = _Cast.apply(torch.get_autocast_dtype("cuda"), *(parameter for _, _, parameter in found))
    try:
        for (of_layer, name, _), value in zip(found, cast, strict=True):
            of_layer[name] = value
        yield
    finally:
        for of_layer, name, parameter in found:
            of_layer[name] = parameter


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_converted(parameters, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [gradient for gradient in gradients if gradient is not None]
        converted = iter(_converted(there, torch.float32))
        return None, *(gradient if gradient is None else next(converted) for gradient in gradients)


def _converted(tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    sources = list(tensors)
    made = [torch.empty_like(source, dtype=dtype) for source in sources]
    if made:
        torch._foreach_copy_(made, sources)
    return made


@contextmanager
def _counted_together(modules: list[nn.Module]) -> Iterator[None]:
    """Count the batch in batch norms, each of which would do so in a kernel of its own."""
    norms = [
        module
        for module in modules
        if type(module) is nn.BatchNorm2d
        and module.training
        and module.momentum is not None
        and module.num_batches_tracked is not None
    ]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.num_batches_tracked = None
    try:
        yield
        if counters:
            torch._foreach_add_(counters, 1)
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter
