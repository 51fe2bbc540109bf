"""Networks and methods of a user's own that break in every way, as modules in the working folder."""

from pathlib import Path

from reliability.inputs import maker

NETWORKS = '''
import torch
from torch import nn

from tekapctl.models import Network


class Small(nn.Module):
    """A classifier that counts its training passes."""

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(4, num_classes)
        self.passes = 0

    def forward(self, images):
        self.passes += self.training
        return self.last(self.body(images).mean((2, 3)))


class Broken(Small):
    """Calls `self.breaks` from its fourth training pass on."""

    def forward(self, images):
        logits = super().forward(images)
        return self.breaks(images, logits) if self.passes > 3 else logits


def later(breaks):
    def factory(num_classes, in_channels):
        made = Broken(num_classes, in_channels)
        made.breaks = breaks
        return made

    return factory


def raising(error):
    def breaks(images, logits):
        raise error

    return breaks


class Reader(dict):
    pass


runtime_error = later(raising(RuntimeError("CUDA error: an illegal memory access was encountered")))
value_error = later(raising(ValueError("late")))
assertion = later(raising(AssertionError("assert 1 == 2")))
key_error = later(raising(KeyError("features")))
stop_iteration = later(raising(StopIteration()))
memory_error = later(raising(MemoryError()))
out_of_memory = later(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")))
cublas = later(raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")))
cudnn = later(raising(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")))
broken_pipe = later(raising(BrokenPipeError(32, "Broken pipe")))
no_file = later(raising(FileNotFoundError(2, "No such file", "lookup.npy")))
recursion = later(raising(RecursionError("maximum recursion depth exceeded")))
long_text = later(raising(RuntimeError("x" * 100_000)))
many_lines = later(raising(RuntimeError("first line\\n\\n  second line\\n")))
markup = later(raising(RuntimeError("[bold red]not markup[/nothing] {braces} %s")))
no_text = later(raising(ZeroDivisionError()))
huge = later(lambda images, logits: logits + torch.ones(2**36)[: logits.shape[1]])
no_logits = later(lambda images, logits: None)
more_classes = later(lambda images, logits: torch.cat([logits, logits], dim=1))
fewer_rows = later(lambda images, logits: logits[1:])
without_gradient = later(lambda images, logits: logits.detach())
not_a_number = later(lambda images, logits: logits * float("nan"))


class AnotherWay(Small):
    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.other = nn.Linear(4, num_classes)

    def forward(self, images):
        features = self.body(images).mean((2, 3))
        self.passes += self.training
        return self.other(features) if self.passes > 3 else self.last(features)


def frozen(num_classes, in_channels):
    return Small(num_classes, in_channels).requires_grad_(False)


def no_parameters(num_classes, in_channels):
    made = Small(num_classes, in_channels)
    for module in made.modules():
        for name in list(module._parameters):
            value = module._parameters.pop(name)
            module.register_buffer(name, value.detach())
    return made


class Detached(Small):
    def forward(self, images):
        return super().forward(images).detach()


class OnlyEvaluates(Small):
    def forward(self, images):
        if self.training:
            raise NotImplementedError("this network is for inference")
        return super().forward(images)


class WritesInPlace(Small):
    def forward(self, images):
        features = self.body(images).mean((2, 3)).sigmoid()
        logits = self.last(features)
        features.add_(1)
        return logits


class Pairs(Small):
    """Needs two images at least, as a batch norm of a vector does."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images):
        return self.last(self.norm(self.body(images).mean((2, 3))))


class Fours(Small):
    """Takes multiples of four images alone in training."""

    def forward(self, images):
        if self.training and len(images) % 4:
            raise ValueError("the batch must be a multiple of 4")
        return super().forward(images)


class RaisesInItsTrial(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.last = nn.Linear(4, num_classes)

    def forward(self, images):
        raise {"stop": StopIteration, "key": KeyError, "type": TypeError}[self.kind]("in the first pass")


def raises(kind):
    def factory(num_classes, in_channels):
        made = RaisesInItsTrial(num_classes, in_channels)
        made.kind = kind
        return made

    return factory


stop_in_trial, key_in_trial, type_in_trial = raises("stop"), raises("key"), raises("type")


class Native(Network):
    """A network that tells what it knows by itself, and breaks."""

    def __init__(self, num_classes, in_channels):
        super().__init__(num_classes, in_channels)
        self.conv, self.last = nn.Conv2d(in_channels, 4, 3), nn.Linear(4, num_classes)
        self.passes = 0

    @property
    def classifier_layer(self):
        return self.last

    def embed(self, images, maps):
        self.passes += self.training
        if self.passes > 3:
            raise KeyError("block3")
        return self.conv(images).mean((2, 3))


class NativeNan(Native):
    def embed(self, images, maps):
        return self.conv(images).mean((2, 3)) * float("nan")


class NativeAtOnce(Native):
    def embed(self, images, maps):
        raise LookupError("no such block")
'''

METHODS = """
from typing import Literal

import torch

from tekapctl.distillation.methods import Method, MethodSpec, Requires


class Abstract(MethodSpec):
    requires = Requires(logits=True)
    name: Literal["methods:Abstract"] = "methods:Abstract"


class Mine(Method):
    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil
        self.steps = 0

    def loss(self, student, teacher, batch):
        self.steps += 1
        return self.spoil(self, student.logits.square().mean())


def error(kind, text):
    def spoil(method, loss):
        raise kind(text)

    return spoil


def late(spoil):
    return lambda method, loss: spoil(method, loss) if method.steps > 3 else loss


def spec(name, spoil):
    class Spec(MethodSpec):
        requires = Requires(logits=True)

        def make(self, pair):
            return Mine(spoil)

    Spec.__name__ = Spec.__qualname__ = name
    return Spec


Raises = spec("Raises", error(RuntimeError, "shapes do not fit"))
GivesNothing = spec("GivesNothing", lambda method, loss: None)
GivesANumber = spec("GivesANumber", lambda method, loss: 1.0)
GivesAVector = spec("GivesAVector", lambda method, loss: loss.expand(3))
GivesNan = spec("GivesNan", lambda method, loss: loss * float("nan"))
Late = spec("Late", late(error(RuntimeError, "shapes do not fit any more")))
LateKey = spec("LateKey", late(error(KeyError, "bank")))
LateMemory = spec("LateMemory", late(error(MemoryError, "")))
LateNan = spec("LateNan", late(lambda method, loss: loss * float("nan")))
LateSvd = spec("LateSvd", late(error(torch.linalg.LinAlgError, "linalg.svd: failed to converge")))


class RaisesWhenBuilt(MethodSpec):
    requires = Requires(logits=True)

    def make(self, pair):
        raise IndexError("tuple index out of range")


class BuildsNothingUsable(MethodSpec):
    requires = Requires(logits=True)

    def make(self, pair):
        return object()


class NoMethod:
    pass


def function(pair):
    return None
"""


@maker
def odd_networks(here: Path) -> None:
    (here / "nets.py").write_text(NETWORKS)


@maker
def odd_methods(here: Path) -> None:
    (here / "methods.py").write_text(METHODS)
