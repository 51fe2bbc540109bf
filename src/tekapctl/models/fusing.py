"""Convolution, bias, residual sum and ReLU as one cuDNN kernel, for networks that are only evaluated."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.models.network import Knowledge, Network

Map = Float[Tensor, "batch _c _h _w"]
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Of the largest value. A fused kernel rounds once where the others round two or three times."""


def conv_relu(conv: nn.Module, norm: nn.Module, x: Map, shortcut: Map | None = None) -> Map:
    """`relu(norm(conv(x)) + shortcut)`, in one kernel if `fuse` has made the convolution a `FusedConv`.

    Args:
        conv: A convolution.
        norm: Its batch norm, or the identity once that is folded.
        x: The input.
        shortcut: What is added before the ReLU; None for nothing.
    """
    if type(conv) is FusedConv and type(norm) is nn.Identity:
        return conv.relu(x, shortcut)
    found = norm(conv(x)) if shortcut is None else norm(conv(x)) + shortcut
    return F.relu(found, inplace=True)


class FusedConv(nn.Conv2d):
    """A convolution on CUDA whose kernel adds the bias and a shortcut and applies the ReLU."""

    def relu(self, x: Map, shortcut: Map | None) -> Map:
        """`relu(conv(x) + shortcut)` in the weights' precision."""
        weight, x = self.weight, x.to(self.weight.dtype)
        sizes = (self.stride, self.padding, self.dilation, self.groups)
        if shortcut is None:
            found = torch.ops.aten.cudnn_convolution_relu(x, weight, self.bias, *sizes)
        else:
            found = torch.ops.aten.cudnn_convolution_add_relu(
                x, weight, shortcut.to(weight.dtype), 1.0, self.bias, *sizes
            )
        return cast(Tensor, found)


@torch.no_grad()
def fuse(network: Network, images: Float[Tensor, "batch c h w"]) -> int:
    """Use fused kernels in a folded network on CUDA if its cuDNN has them; returns the number of convolutions.

    They are kept only if the outputs stay the same up to rounding.

    Args:
        network: The network, with its batch norms folded, in the precision and on the device of its passes.
        images: A normalized batch as the network will see it.
    """
    expected = network.knowledge(images)
    convolutions = [module for module in network.modules() if _is_fusible(module)]
    for conv in convolutions:
        conv.__class__ = FusedConv
    try:
        if _are_close(network.knowledge(images), expected):
            return len(convolutions)
    except RuntimeError:
        pass  # this cuDNN has no such kernel for these shapes or this precision
    for conv in convolutions:
        conv.__class__ = nn.Conv2d
    return 0


def _is_fusible(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.bias is not None
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _are_close(found: Knowledge, expected: Knowledge) -> bool:
    pairs = zip(
        (found.logits, found.embedding, *found.feature_maps),
        (expected.logits, expected.embedding, *expected.feature_maps),
        strict=True,
    )
    return all(
        bool((one.float() - other.float()).abs().amax() <= _TOLERANCE[other.dtype] * other.float().abs().amax())
        for one, other in pairs
        if other.numel()
    )
