"""Each optimizer moves parameters as PyTorch's or timm's own does, with groups, clipping and accumulation."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tekapctl import models
from tekapctl.distillation.objective import Classification
from tekapctl.distributed.communicator import SINGLE_PROCESS
from tekapctl.distributed.data_parallel import DataParallelStep
from tekapctl.optim import OPTIMIZERS, Optimizer
from tekapctl.optim.optimizer import WeightAverage

CPU = torch.device("cpu")
PARALLEL = DataParallelStep(nn.Identity(), SINGLE_PROCESS)


class Small(nn.Module):
    """A convolution, a norm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.classifier = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.conv(images)).mean((2, 3)))


def loss_of(network: Small, step: int) -> torch.Tensor:
    images = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(network(images), torch.arange(6) % 3)


def build(name: str, network: Small, **settings) -> Optimizer:
    spec = OPTIMIZERS[name](**settings)
    return spec.build(spec.trainable(network, network.classifier, nn.Identity()), CPU)


def train(network: Small, optimizer: torch.optim.Optimizer, steps: int = 4) -> Small:
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(network, step).backward()
        optimizer.step()
    return network


def expected(name: str, network: Small) -> torch.optim.Optimizer:
    """The library's own optimizer with the settings that ours has by default."""
    matrices = [network.conv.weight, network.classifier.weight]
    vectors = [*network.norm.parameters(), network.classifier.bias]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    match name:
        case "sgd":
            return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        case "adamw":
            return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)
        case "lamb":
            timm = pytest.importorskip("timm.optim")
            return timm.Lamb(groups, lr=5e-3, weight_decay=0.02, max_grad_norm=None)
    raise KeyError(name)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_it_is_the_librarys(name):
    ours, theirs = Small(), Small()
    reference = expected(name, theirs)
    train(ours, build(name, ours))
    train(theirs, reference)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(one, other)


def test_muon_is_pytorchs_on_flattened_kernels_and_adamw_elsewhere():
    ours, theirs = Small(), Small()
    train(ours, build("muon", ours, learning_rate=0.01, weight_decay=0.1))
    kernel = nn.Parameter(theirs.conv.weight.detach().flatten(1).clone())
    muon = torch.optim.Muon([kernel], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    vectors = [*theirs.norm.parameters(), theirs.classifier.bias]
    groups = [{"params": [theirs.classifier.weight]}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))
    for step in range(4):
        theirs.zero_grad()
        loss_of(theirs, step).backward()
        kernel.grad = theirs.conv.weight.grad.flatten(1)
        muon.step()
        adamw.step()
        theirs.conv.weight.data.copy_(kernel.data.view_as(theirs.conv.weight))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_gradients_of_several_backward_passes_add_up(name):
    pytest.importorskip("timm") if name == "lamb" else None
    once, twice = Small(), Small()
    for network, shares in ((once, [1.0]), (twice, [0.25, 0.75])):
        optimizer = build(name, network)
        for step in range(3):
            optimizer.zero_grad()
            for share in shares:
                loss = loss_of(network, step)
                optimizer.backward({"cross_entropy": share * loss, "kd": share * loss.square()}, PARALLEL)
            optimizer.step()
    for one, other in zip(once.parameters(), twice.parameters(), strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "dot"])
def test_clipping_scales_the_whole_gradient(name):
    network = Small()
    optimizer = build(name, network, learning_rate=1.0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer.zero_grad()
    loss = loss_of(network, 0)
    optimizer.backward({"cross_entropy": loss, "kd": 2 * loss}, PARALLEL)
    optimizer.clip(0.01)
    optimizer.step()
    moved = [new - old for new, old in zip(network.parameters(), before, strict=True)]
    assert_close(nn.utils.get_total_norm(moved), torch.tensor(0.01), rtol=1e-3, atol=0)


def test_norms_and_biases_can_be_left_without_decay():
    network = Small()
    found = {group["weight_decay"]: group["params"] for group in build("adamw", network).param_groups}
    assert {parameter.ndim for parameter in found[0.05]} == {2, 4}
    assert {parameter.ndim for parameter in found[0.0]} == {1}


@pytest.mark.parametrize("name", ["resnet8", "torchvision:resnet18"])
def test_earlier_blocks_learn_more_slowly(name):
    network = models.build(name, 10, 3)
    spec = OPTIMIZERS["sgd"](learning_rate=0.1, layer_decay=0.5)
    optimizer = spec.build(spec.trainable(network, network.classifier_layer, Classification()), CPU)
    optimizer.set_learning_rate(0.2)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    in_order = [rates[id(parameter)] for parameter in network.parameters()]
    assert in_order == sorted(in_order)
    assert in_order[-1] == 0.2
    inner = [rate for (key, _), rate in zip(network.named_parameters(), in_order, strict=True) if "layer1." in key]
    assert len(set(in_order)) > 3
    assert len(set(inner)) == (1 if name == "resnet8" else 2)


def test_the_average_of_weights_follows_its_recurrence():
    network = models.build("resnet8", 10, 1)
    average = WeightAverage(network, 0.5)
    weight = network.classifier_layer.weight
    expected_weight = weight.detach().clone()
    for step in range(5):
        weight.data.add_(1.0)
        average.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected_weight = decay * expected_weight + (1 - decay) * weight.detach()
        assert_close(average.network.classifier_layer.weight, expected_weight)
    assert not average.network.training


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_after_a_reset_steps_are_those_of_a_new_optimizer(name):
    if name == "lamb":
        pytest.importorskip("timm.optim")
    network, fresh = Small(), Small()
    used = build(name, network)
    for step in range(4):
        optimizer_step(used, network, step)
    fresh.load_state_dict(network.state_dict())
    used.reset()
    new = build(name, fresh)
    for step in range(2):
        optimizer_step(used, network, step)
        optimizer_step(new, fresh, step)
    for one, other in zip(network.parameters(), fresh.parameters(), strict=True):
        assert_close(one, other)


def optimizer_step(optimizer: Optimizer, network: Small, step: int) -> None:
    optimizer.zero_grad()
    optimizer.backward({"cross_entropy": loss_of(network, step)}, PARALLEL)
    optimizer.step()
