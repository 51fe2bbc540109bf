"""Data-parallel training: gradients are averaged over the processes, and batch norm is synchronised or averaged."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tekapctl.distributed.communicator import Communicator

# Buffers (memory banks, running statistics) are not synchronised here. The setting's name depends on the version.
_SETTINGS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _SETTINGS): False
}


class DataParallelStep:
    """Averages a module's gradients over the processes, which have equal weights, after each backward pass.

    The first backward pass is averaged explicitly and shows which parameters have gradients; from the second pass on
    `DistributedDataParallel` averages these during the backward pass.
    """

    def __init__(self, module: nn.Module, comm: Communicator) -> None:
        self.module = module
        self.comm = comm
        self._parallel: DistributedDataParallel | None = None
        comm.on_close(self.reset)

    def reset(self) -> None:
        """Call this when other parameters get gradients from now on."""
        self._parallel = None

    def __call__(self, *inputs: Any) -> Any:
        """Run the module."""
        return self.module(*inputs) if self._parallel is None else self._parallel(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Compute averaged gradients of a loss that the module returned.

        Raises:
            PeerLostError: Another process has died or cannot be reached.
        """
        if self.comm.world_size == 1:
            loss.backward()
            return
        with self.comm.translating_errors():
            loss.backward()
            if self._parallel is None:
                self.comm.all_reduce_mean([p.grad for p in self.module.parameters() if p.grad is not None])
                self._parallel = self._wrap()

    def average(self, gradients: Sequence[Tensor | None]) -> None:
        """Average gradients that were computed in another way."""
        self.comm.all_reduce_mean([gradient for gradient in gradients if gradient is not None])

    def _wrap(self) -> DistributedDataParallel:
        idle = [p for p in self.module.parameters() if p.requires_grad and p.grad is None]
        for parameter in idle:
            parameter.requires_grad_(False)
        try:
            return DistributedDataParallel(self.module, gradient_as_bucket_view=True, **_NO_BUFFERS)
        finally:
            for parameter in idle:
                parameter.requires_grad_(True)


def average_running_stats(comm: Communicator, *modules: nn.Module) -> None:
    """Average running means and variances; as these are moving averages, it does not matter how often this is done."""
    names = ("running_mean", "running_var")
    comm.all_reduce_mean([b for module in modules for name, b in module.named_buffers() if name.endswith(names)])


def convert_sync_batchnorm(module: nn.Module, comm: Communicator, device: torch.device) -> None:
    """Make all batch norms of a module use the statistics of the full batch in training.

    The module is changed in place; its parameters and buffers stay the same tensors.
    """
    for name, child in list(module.named_children()):
        if not isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            convert_sync_batchnorm(child, comm, device)
        elif device.type == "cuda":
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            setattr(module, name, SyncBatchNorm(child, comm))


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with the statistics of all processes' samples, on any device; PyTorch's needs GPUs."""

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
