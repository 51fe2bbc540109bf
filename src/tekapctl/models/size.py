"""How large a network is, and what one image costs it."""

import torch
from torch import Tensor, nn

from tekapctl.models.network import Network


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def macs(network: Network, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image.

    Args:
        network: The network; its mode and its buffers are left as they are.
        image_shape: Channels, height and width.
    """
    counted = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        # Each output value is a sum over one row of the weights.
        counted += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    was_training = network.training
    try:
        parameter = next(network.parameters())
        network.eval()(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return counted
