"""Shifts of images: bounds, strength, and draws that depend on an image's place alone."""

import pytest
import torch
from torch.nn import functional as F

from tekapctl import data
from tekapctl.commands.robustness import Request, evaluate_shifts
from tekapctl.commands.shifts import (
    CORRUPTIONS,
    FGSM,
    PGD,
    Corruption,
    Occlusion,
    Shift,
    loss_gradient_sign,
    pixel_logits,
)
from tekapctl.data.image_set import ImageSet
from tekapctl.device import resolve_device
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.build import assemble

CPU = resolve_device("cpu")
LABELS = torch.arange(100) % 10


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return data.load(parse({"kind": "teacher", "data": "digits"}).data, tmp_path_factory.mktemp("d"), seed=0)


@pytest.fixture(scope="module")
def network(splits, tmp_path_factory) -> Network:
    """A small network trained on the digits."""
    spec = parse({"kind": "teacher", "model": "resnet8", "data": "digits", "epochs": 4, "precision": "float32"})
    trainer = assemble(spec, splits, [], CPU, Home(tmp_path_factory.mktemp("home")))
    for _ in range(spec.epochs):
        trainer.start_epoch()
        for batch in trainer.batches():
            trainer.train_step(batch)
        trainer.end_epoch()
    return trainer.network.eval()


@pytest.fixture(scope="module")
def pixels(splits):
    return splits.test.images[:100].float() / 255


def loss(network: Network, pixels, labels) -> float:
    with torch.no_grad():
        return F.cross_entropy(pixel_logits(network, pixels), labels).item()


def test_a_network_sees_the_normalised_pixels(network, splits, pixels):
    with torch.no_grad():
        images = network.normalize(splits.test.images[:100])
        torch.testing.assert_close(pixel_logits(network, pixels), network(images).float())


def test_attacks_stay_in_bounds_and_are_the_stronger_the_harder_they_try(network, splits, pixels):
    labels, epsilon = splits.test.labels[:100], 0.1
    signs = torch.randint(2, pixels.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    losses = [loss(network, pixels, labels), loss(network, (pixels + epsilon * signs).clamp(0, 1), labels)]
    for attack in (FGSM(epsilon), PGD(epsilon, steps=20)):
        attacked = attack(pixels, labels, 0, network)
        assert (attacked - pixels).abs().max() <= epsilon + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        losses.append(loss(network, attacked, labels))
    assert losses == sorted(losses)


def test_the_gradients_sign_is_that_of_small_differences(network, splits, pixels):
    image, label, step = pixels[:1], splits.test.labels[:1], 1e-2
    sign = loss_gradient_sign(network, image, label)
    for row, column in ((3, 3), (4, 2), (2, 5)):
        nudge = torch.zeros_like(image)
        nudge[0, 0, row, column] = step
        slope = loss(network, image + nudge, label) - loss(network, image - nudge, label)
        assert slope * sign[0, 0, row, column] > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_their_severity_and_know_nothing_of_the_batch(kind, channels, network):
    coarse = torch.rand(70, channels, 7, 6, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(coarse, (24, 20), mode="bilinear")
    labels = torch.zeros(70, dtype=torch.int64)
    changes = []
    for severity in range(1, 6):
        corrupt = Corruption(kind, severity)
        whole = corrupt(images, labels, 0, network)
        assert whole.shape == images.shape
        assert whole.min() >= 0
        assert whole.max() <= 1
        part = corrupt(images[66:], labels[66:], 66, network)
        torch.testing.assert_close(part, whole[66:], atol=1e-6, rtol=0)
        changes.append((whole - images).square().mean().item())
    assert changes[0] > 0
    if kind != "pixelate":  # where few pixels become nearly as few, much depends on which fall together
        assert changes == sorted(changes)
    assert changes[-1] > changes[0]


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_an_occluded_fraction_is_exact_and_anywhere(fraction, network):
    images = torch.zeros(300, 1, 8, 12)
    hidden = Occlusion(fraction)(images, torch.zeros(300, dtype=torch.int64), 0, network) == 0.5
    assert (hidden.flatten(1).float().mean(1) == fraction).all()
    if fraction == 0.25:
        assert (hidden.any(0)).all(), "every place is hidden in some image"


class Unchanged(Shift):
    name = "nothing"

    def __call__(self, pixels, labels, first, network):
        return pixels


def test_without_a_shift_all_predictions_are_consistent(network, splits):
    (found,) = evaluate_shifts(network, splits.test, [Unchanged()], device=CPU, teacher=network, batch_size=64)
    assert (found.consistency, found.agreement, found.top1) == (1.0, 1.0, found.teacher_top1)
    (spread,) = evaluate_shifts(network, splits.test.subsample(50), [Occlusion(1.0)], device=CPU)
    assert spread.teacher_top1 is None
    assert spread.top1 < 0.3


def test_a_spread_of_a_set_is_evenly_taken(splits):
    part: ImageSet = splits.test.subsample(10)
    assert torch.equal(part.images, splits.test.images[torch.arange(10) * 50])
    assert len(splits.test.subsample(10**6)) == len(splits.test)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"attacks": ["fgms"]}, "fgsm"),
        ({"corruptions": ["fogg"]}, "fog"),
        ({"corruptions": ["fog"], "severities": [6]}, "6 is not a valid severity"),
        ({"attacks": ["pgd"], "epsilons": [2.0]}, "2 is not a valid epsilon"),
        ({"occlusions": [1.5]}, "1.5 is not a valid occluded fraction"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(asked, said):
    with pytest.raises(UsageError, match=said):
        Request(**asked).shifts()
