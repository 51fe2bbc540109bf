"""Fused convolutions, and what is done to all layers together, on an emulated GPU."""

import copy

import pytest
import torch
from torch import nn

from helpers.emulated_cuda import EmulatedGPU, emulated_cuda
from tekapctl import models
from tekapctl.models.fusing import FusedConv, fold, fuse

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORKS = ("resnet8x4", "wrn_16_2", "vgg8", "ShuffleV1")


@pytest.fixture
def gpu():
    with emulated_cuda() as found:
        yield found


def trained(name: str) -> models.Network:
    """A network whose batch norms are not the identity."""
    torch.manual_seed(0)
    network = models.build(name, 5, 3)
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(8, 3, 16, 16))
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_convolutions_say_the_same_in_fewer_kernels(name, gpu: EmulatedGPU):
    network = fold(trained(name), IMAGES).network
    for wanted in ({}, {"preactivations": True}):
        expected = network.knowledge(IMAGES, **wanted)
        there = copy.deepcopy(network).cuda()
        gpu.reset()
        there.knowledge(IMAGES.cuda(), **wanted)
        before = gpu.kernels.total()
        with torch.no_grad():
            assert fuse(there, IMAGES.cuda())
            gpu.reset()
            found = there.knowledge(IMAGES.cuda(), **wanted)
        if name == "resnet8x4":
            assert gpu.kernels.total() < (0.8 if wanted else 0.6) * before
        ours = (found.logits, found.embedding, *found.feature_maps, *found.preactivations)
        theirs = (expected.logits, expected.embedding, *expected.feature_maps, *expected.preactivations)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_convolutions_on_the_cpu_give_the_same_bits(name):
    network = fold(trained(name), IMAGES).network
    expected = [network.knowledge(IMAGES, preactivations=wanted) for wanted in (False, True)]
    if not fuse(network, IMAGES):
        pytest.skip("this build of PyTorch has no fused convolutions with the same bits")
    found = [network.knowledge(IMAGES, preactivations=wanted) for wanted in (False, True)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.logits, other.logits)
        for ours, theirs in zip(
            one.feature_maps + one.preactivations, other.feature_maps + other.preactivations, strict=True
        ):
            assert torch.equal(ours, theirs)


def test_where_there_is_no_fused_convolution_the_network_stays_as_it_is():
    network = fold(trained("resnet8"), IMAGES).network.bfloat16()
    expected = network.knowledge(IMAGES.bfloat16())
    assert fuse(network, IMAGES.bfloat16()) == 0
    assert not any(isinstance(module, FusedConv) for module in network.modules())
    assert torch.equal(network.knowledge(IMAGES.bfloat16()).logits, expected.logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_batch_norms_are_counted_in_one_kernel(name, gpu: EmulatedGPU):
    ours = trained(name).train()
    there = copy.deepcopy(ours).cuda()
    for _ in range(3):
        gpu.reset()
        ours.knowledge(IMAGES)
        there.knowledge(IMAGES.cuda())
    assert gpu.kernels["_foreach_add_"] in (1, 2)  # of at most 110 counters each
    norms = [module for module in there.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked.cpu()) for norm in norms} == {5}
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name].cpu(), value)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_cast_together_give_what_autocast_gives(name, gpu: EmulatedGPU):
    """To the bit, in the forward pass and in the gradients, with a tenth of the casts."""
    found, casts = [], []
    for runs_once in (False, True):
        network = trained(name).train().cuda()
        network.runs_layers_once = runs_once
        gpu.reset()
        with torch.autocast("cuda", torch.bfloat16):
            logits = network.knowledge(IMAGES.cuda()).logits
        logits.float().square().sum().backward()
        casts.append(gpu.kernels["_to_copy"] + gpu.kernels["_foreach_copy_"])
        found.append([logits.cpu(), *(parameter.grad.cpu() for parameter in network.parameters())])
    assert casts[1] < casts[0] / 4
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
