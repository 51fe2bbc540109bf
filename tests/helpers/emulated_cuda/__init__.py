"""A CUDA device that is not there, for tests of what the program does on one.

`with emulated_cuda() as gpu:` makes `torch.device("cuda")` usable on any machine. Tensors say that they are on `cuda:0`
and take CUDA's branches in PyTorch and in the program, while the CPU computes their values. The emulation

- refuses what CUDA refuses: operands on different devices, a generator of another device, `.numpy()`;
- records in `gpu.events` each time the host waits for the device, with the line of the program that caused it: values
  that are read, blocking copies, shapes that depend on values, solvers that return a status;
- counts in `gpu.kernels` the kernels that PyTorch's eager mode would launch;
- captures and replays CUDA graphs by CUDA's rules: the same memory, no Python and no new random seed at a replay, only
  registered generators, no copies from or to the host and no waiting in a capture, which itself computes nothing.

It says nothing about speed, memory, rounding, or kernels that fail.
"""

from helpers.emulated_cuda.device import EmulatedGPU, Event
from helpers.emulated_cuda.runtime import emulated_cuda

__all__ = ["EmulatedGPU", "Event", "emulated_cuda"]
