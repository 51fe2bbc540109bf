"""Folds batch norms into the preceding convolutions: the same outputs with fewer passes over memory."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tekapctl.models.network import Knowledge, Network


@dataclass(frozen=True)
class Folded:
    """A network on the CPU, for evaluation only, and how many of its batch norms were folded, and how many were not."""

    network: Network
    folded: int
    kept: int


def fold(network: Network, images: Float[Tensor, "batch c h w"]) -> Folded:
    """Fold the batch norms of a copy of a trained network, for evaluation only.

    A forward pass shows which batch norm follows which convolution. A fold is kept only if the outputs stay the same up
    to rounding; they do not if the convolution's output is used elsewhere too, as before a residual branch.

    Everything is computed on the CPU: a GPU may round convolutions to TF32, which is too coarse for the comparison.
    """
    folded, images = copy.deepcopy(network).cpu().eval().requires_grad_(False), images.cpu()
    with torch.no_grad():
        expected = folded.knowledge(images)
        pairs = _pairs(folded, images)
        if _try(folded, pairs, images, expected):
            return Folded(folded, len(pairs), 0)
        count = sum(_try(folded, [pair], images, expected) for pair in pairs)
    return Folded(folded, count, len(pairs) - count)


def _pairs(network: Network, images: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that receive their output."""
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):

            def note(_: nn.Module, __: object, output: Tensor, name: str = name) -> None:
                made[id(output)] = (name, output)  # kept alive, so no other tensor gets its id

            hooks.append(module.register_forward_hook(note))
        elif isinstance(module, nn.BatchNorm2d):

            def match(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                if id(inputs[0]) in made:
                    pairs.append((made[id(inputs[0])][0], name))

            hooks.append(module.register_forward_pre_hook(match))
    try:
        network.knowledge(images)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


def _try(network: Network, pairs: list[tuple[str, str]], images: Tensor, expected: Knowledge) -> bool:
    """Fold pairs; undo it and return False if the outputs change."""
    before = {name: network.get_submodule(name) for pair in pairs for name in pair}
    for conv, norm in pairs:
        before_norm, after = network.get_submodule(conv), network.get_submodule(norm)
        assert isinstance(before_norm, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        fused, nothing = fuse_conv_bn_eval(before_norm, after).requires_grad_(False), nn.Identity()
        # External models need the hooks of both.
        fused._forward_hooks, nothing._forward_hooks = before_norm._forward_hooks, after._forward_hooks
        network.set_submodule(conv, fused)
        network.set_submodule(norm, nothing)
    found = network.knowledge(images)
    pairs_of_outputs = zip(
        (found.logits, found.embedding, *found.feature_maps),
        (expected.logits, expected.embedding, *expected.feature_maps),
        strict=True,
    )
    same = all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().amax())) for a, b in pairs_of_outputs if b.numel()
    )
    if not same:
        for name, module in before.items():
            network.set_submodule(name, module)
    return same
