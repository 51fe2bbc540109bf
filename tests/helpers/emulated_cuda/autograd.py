"""PyTorch's autograd engine in Python: its own asks the driver for streams when a gradient is on CUDA."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

Gradients = dict[int, Tensor]
"""Gradients of a node's outputs, by their numbers."""


def run_backward(
    outputs: tuple[Tensor, ...],
    gradients: tuple[Tensor | None, ...],
    retain_graph: bool,
    create_graph: bool,
    inputs: tuple[Tensor, ...],
    allow_unreachable: bool = True,
    accumulate_grad: bool = True,
) -> tuple[Tensor | None, ...] | None:
    """What `torch.autograd.graph._engine_run_backward` does, on one thread and without gradients of gradients."""
    if create_graph:
        raise NotImplementedError("The emulation has no gradients of gradients.")
    places: dict[tuple[Any, int], list[int]] = {}
    for place, each in enumerate(inputs):
        places.setdefault(_edge(each), []).append(place)
    found: list[Tensor | None] = [None] * len(inputs)
    roots = [_edge(each) for each in outputs]
    missing = _count_uses([node for node, _ in roots])
    pending: dict[Any, Gradients] = {}

    def give(node: Any, number: int, gradient: Tensor | None) -> None:
        if gradient is not None:
            given = pending.setdefault(node, {})
            given[number] = given[number] + gradient if number in given else gradient

    with torch.no_grad():
        for (node, number), gradient in zip(roots, gradients, strict=True):
            give(node, number, gradient)
        ready = [node for node in dict.fromkeys(node for node, _ in roots) if not missing[node]]
        while ready:
            node = ready.pop()
            given = pending.pop(node, {})
            for number, gradient in given.items():
                for place in places.get((node, number), []):
                    found[place] = gradient
            made = _run(node, given, accumulates=accumulate_grad and not inputs)
            for (following, number), gradient in zip(node.next_functions, made, strict=True):
                if following is None:
                    continue
                if gradient is not None:
                    gradient = _fitted(gradient, following._input_metadata[number])
                give(following, number, gradient)
                missing[following] -= 1
                if not missing[following]:
                    ready.append(following)
    return tuple(found) if inputs else None


def _count_uses(roots: list[Any]) -> Counter[Any]:
    """How often each node's outputs are used; it runs when all of them have their gradients."""
    uses: Counter[Any] = Counter()
    seen: set[Any] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None:
                uses[following] += 1
                stack.append(following)
    return uses


def _run(node: Any, given: Gradients, *, accumulates: bool) -> tuple[Tensor | None, ...]:
    """The gradients that a node passes on."""
    count = len(node.next_functions)
    if type(node).__name__ == "AccumulateGrad":
        if accumulates and 0 in given:
            _accumulate(node.variable, given[0])
        return (None,) * count
    if not given:
        return (None,) * count
    metadata = node._input_metadata
    gradients = [given.get(number) for number in range(len(metadata))]
    if hasattr(node, "_forward_cls"):  # a torch.autograd.Function gets zeros instead of None
        filled = (
            torch.zeros(of.shape, dtype=of.dtype, device=of.device) if each is None else each
            for each, of in zip(gradients, metadata, strict=True)
        )
        made = node.apply(*filled)
    else:
        made = node(*gradients)
    found = list(made) if isinstance(made, tuple) else [made]
    while len(found) > count:  # a Function also returns None for arguments that are no tensors
        del found[max(place for place, each in enumerate(found) if each is None)]
    return (*found, *[None] * (count - len(found)))


def _edge(tensor: Tensor) -> tuple[Any, int]:
    """The node that computes a tensor's gradient, and the number of the tensor among its outputs."""
    if tensor.grad_fn is not None:
        return tensor.grad_fn, tensor.output_nr
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _fitted(gradient: Tensor, metadata: Any) -> Tensor:
    """A gradient in the shape and type of the tensor it belongs to."""
    if tuple(gradient.shape) != tuple(metadata.shape):
        gradient = gradient.sum_to_size(tuple(metadata.shape))
    if gradient.device != metadata.device:
        raise RuntimeError(f"a gradient on {gradient.device} for a tensor on {metadata.device}")
    return gradient.to(metadata.dtype)


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad += gradient
    elif gradient.stride() == parameter.stride():
        parameter.grad = gradient.detach()
    else:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
