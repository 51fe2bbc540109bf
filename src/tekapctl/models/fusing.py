"""Networks that are only evaluated: batch norms folded into convolutions, and convolutions fused with what follows."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tekapctl.models.knowledge import Knowledge
from tekapctl.models.network import Network, Residual

Map = Float[Tensor, "batch _c _h _w"]
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the largest value. A fused kernel rounds once where the others round two or three times."""


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
        pairs = _convolutions_with_norms(folded, images)
        if _are_folded(folded, pairs, images, expected):
            return Folded(folded, len(pairs), 0)
        count = sum(_are_folded(folded, [pair], images, expected) for pair in pairs)
    return Folded(folded, count, len(pairs) - count)


def _convolutions_with_norms(network: Network, images: Tensor) -> list[tuple[str, str]]:
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


def _are_folded(network: Network, pairs: list[tuple[str, str]], images: Tensor, expected: Knowledge) -> bool:
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
    same = all(
        torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().amax()))
        for one, other in _outputs(network.knowledge(images), expected)
        if other.numel()
    )
    if not same:
        for name, module in before.items():
            network.set_submodule(name, module)
    return same


def conv_relu(conv: nn.Module, norm: nn.Module, x: Map, shortcut: Map | None = None) -> Map:
    """`relu(norm(conv(x)) + shortcut)`, in one operation if `fuse` has made the convolution a `FusedConv`."""
    if type(conv) is FusedConv and type(norm) is nn.Identity:
        return conv.relu(x, shortcut)
    found = norm(conv(x)) if shortcut is None else norm(conv(x)) + shortcut
    return F.relu(found, inplace=True)


class FusedConv(nn.Conv2d):
    """A convolution that also adds a shortcut and applies the ReLU."""

    def relu(self, x: Map, shortcut: Map | None) -> Map:
        """`relu(conv(x) + shortcut)` in the weights' precision."""
        weight, bias, x = self.weight, self.bias, x.to(self.weight.dtype)
        other = None if shortcut is None else shortcut.to(weight.dtype)
        if x.is_cuda:
            cudnn, sizes = torch.ops.aten, (self.stride, self.padding, self.dilation, self.groups)
            if other is None:
                found = cudnn.cudnn_convolution_relu(x, weight, bias, *sizes)
            else:
                found = cudnn.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *sizes)
        else:
            onednn = torch.ops.mkldnn._convolution_pointwise
            settings = (weight, bias, self.padding, self.stride, self.dilation, self.groups)
            if other is None:
                found = onednn(x, *settings, "relu", [], "")
            else:
                found = onednn.binary(x, other, *settings, "add", 1.0, "relu", [], "")
        return cast(Tensor, found)


@torch.no_grad()
def fuse(network: Network, images: Float[Tensor, "batch c h w"]) -> int:
    """Use fused convolutions in a folded network on CUDA or a CPU that has them; returns how many.

    They are kept only if the outputs stay the same, on the CPU to the bit and on CUDA up to rounding, and are the same
    bits each time: cuDNN takes no deterministic kernel here by itself.

    Args:
        network: The network, with its batch norms folded, in the precision and on the device of its passes.
        images: Normalized images; on CUDA, a batch as the network will see it.
    """
    expected = network.knowledge(images)
    for block in network.modules():
        if isinstance(block, Residual) and images.is_cuda:
            block.merge_biases()
    convolutions = [module for module in network.modules() if _is_fusible(module)]
    if _are_fused(network, convolutions, images, expected):
        return len(convolutions)
    return sum(_are_fused(network, [conv], images, expected) for conv in convolutions)


def _are_fused(network: Network, convolutions: list[nn.Conv2d], images: Tensor, expected: Knowledge) -> bool:
    """Fuse some convolutions, and undo it if that changes the outputs or is not possible."""
    for conv in convolutions:
        conv.__class__ = FusedConv
    try:
        first, second = (network.knowledge(images) for _ in range(2))
        if _are_close(first, expected) and _are_equal(first, second):
            return True
    except (RuntimeError, AttributeError):
        pass  # this build has no such operation, or none for these shapes
    for conv in convolutions:
        conv.__class__ = nn.Conv2d
    return False


def _is_fusible(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.bias is not None
        # In bfloat16 on the CPU, the sum would be rounded less often than it is, and it is no faster.
        and (module.weight.is_cuda or module.weight.dtype == torch.float32)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _are_close(found: Knowledge, expected: Knowledge) -> bool:
    if not expected.logits.is_cuda:
        return _are_equal(found, expected)
    return all(
        bool((one.float() - other.float()).abs().amax() <= _TOLERANCE[other.dtype] * other.float().abs().amax())
        for one, other in _outputs(found, expected)
        if other.numel()
    )


def _are_equal(one: Knowledge, other: Knowledge) -> bool:
    return all(torch.equal(*pair) for pair in _outputs(one, other))


def _outputs(one: Knowledge, other: Knowledge) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(
        (one.logits, one.embedding, *one.feature_maps),
        (other.logits, other.embedding, *other.feature_maps),
        strict=True,
    )
