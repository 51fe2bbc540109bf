"""Batch norm with several processes: synchronised statistics, or the averages of local ones."""

from typing import cast

import torch
from torch import Tensor, nn

from tekapctl.distributed.communicator import Communicator


def average_running_stats(comm: Communicator, *modules: nn.Module) -> None:
    """Average running means and variances over the processes.

    They are moving averages, so it does not matter how often this is done.

    Args:
        comm: The processes.
        modules: Modules that contain batch norms.
    """
    names = ("running_mean", "running_var")
    comm.all_reduce_mean([b for module in modules for name, b in module.named_buffers() if name.endswith(names)])


def convert_sync_batchnorm(module: nn.Module, comm: Communicator, device: torch.device) -> None:
    """Make all batch norms of a module use the statistics of the full batch in training.

    Args:
        module: Changed in place; its parameters and buffers stay the same tensors.
        comm: The processes.
        device: Its device; PyTorch's own SyncBatchNorm is used on GPUs.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            on_gpu = device.type == "cuda"
            setattr(
                module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child) if on_gpu else SyncBatchNorm(child, comm)
            )
        else:
            convert_sync_batchnorm(child, comm, device)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' samples, on any device.

    Args:
        norm: The batch norm to replace; its parameters and buffers are reused.
        comm: The processes.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, comm: Communicator) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.comm = comm
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Accept inputs of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise each channel."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        dims = [0, *range(2, input.dim())]
        count = self.comm.all_reduce_sum(torch.tensor(float(input.numel() // input.shape[1]), device=input.device))
        shape = [1, -1] + [1] * (input.dim() - 2)
        mean = cast(Tensor, _AllReduceSum.apply(values.sum(dims), self.comm)) / count
        centred = values - mean.view(shape)
        variance = cast(Tensor, _AllReduceSum.apply(centred.square().sum(dims), self.comm)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(input.dtype)


class _AllReduceSum(torch.autograd.Function):
    """A sum over the processes; its gradient is summed over the processes too."""

    @staticmethod
    def forward(ctx: object, found: Tensor, comm: Communicator) -> Tensor:
        ctx.comm = comm  # type: ignore[attr-defined]
        return comm.all_reduce_sum(found)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.comm.all_reduce_sum(gradients[0]), None  # type: ignore[attr-defined]
