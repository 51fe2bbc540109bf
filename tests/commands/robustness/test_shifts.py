"""Shifts of images: bounds, strength, and draws that depend on an image's place alone."""

import pytest
import torch
from torch.nn import functional as F

from tekapctl import data
from tekapctl.commands.robustness.attacks import FGSM, PGD, Occlusion, ascent
from tekapctl.commands.robustness.measure import Request, measure_shifts
from tekapctl.commands.robustness.shift import CORRUPTIONS, Corruption, Seen, Shift
from tekapctl.data.image_set import ImageSet
from tekapctl.device import resolve_device
from tekapctl.errors import UsageError
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.build import assemble

CPU = resolve_device("cpu")
LABELS = torch.arange(100) % 10


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return data.load(parse({"kind": "teacher", "data": "digits"}).data, tmp_path_factory.mktemp("d"), seed=0)


@pytest.fixture(scope="module")
def seen(splits, tmp_path_factory) -> Seen:
    """A small network that knows the digits."""
    spec = parse({"kind": "teacher", "model": "resnet8", "data": "digits", "epochs": 4, "precision": "float32"})
    trainer = assemble(spec, splits, [], CPU, Home(tmp_path_factory.mktemp("home")))
    for _ in range(spec.epochs):
        trainer.start_epoch()
        for batch in trainer.batches():
            trainer.train_step(batch)
        trainer.end_epoch()
    return Seen(trainer.network.eval())


@pytest.fixture(scope="module")
def pixels(splits):
    return splits.test.images[:100].float() / 255


def loss(seen: Seen, pixels, labels) -> float:
    with torch.no_grad():
        return F.cross_entropy(seen.logits(pixels), labels).item()


def test_a_network_sees_the_normalised_pixels(seen, splits, pixels):
    with torch.no_grad():
        images = seen.network.normalize(splits.test.images[:100])
        torch.testing.assert_close(seen.logits(pixels), seen.network(images).float())


def test_attacks_stay_in_bounds_and_are_the_stronger_the_harder_they_try(seen, splits, pixels):
    labels, epsilon = splits.test.labels[:100], 0.1
    signs = torch.randint(2, pixels.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    losses = [loss(seen, pixels, labels), loss(seen, (pixels + epsilon * signs).clamp(0, 1), labels)]
    for attack in (FGSM(epsilon), PGD(epsilon, steps=20)):
        attacked = attack(pixels, labels, 0, seen)
        assert (attacked - pixels).abs().max() <= epsilon + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        losses.append(loss(seen, attacked, labels))
    assert losses == sorted(losses)


def test_the_gradients_sign_is_that_of_small_differences(seen, splits, pixels):
    image, label, step = pixels[:1], splits.test.labels[:1], 1e-2
    sign = ascent(image, label, seen)
    for row, column in ((3, 3), (4, 2), (2, 5)):
        nudge = torch.zeros_like(image)
        nudge[0, 0, row, column] = step
        slope = loss(seen, image + nudge, label) - loss(seen, image - nudge, label)
        assert slope * sign[0, 0, row, column] > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_their_severity_and_know_nothing_of_the_batch(kind, channels, seen):
    coarse = torch.rand(70, channels, 7, 6, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(coarse, (24, 20), mode="bilinear")
    labels = torch.zeros(70, dtype=torch.int64)
    changes = []
    for severity in range(1, 6):
        corrupt = Corruption(kind, severity)
        whole = corrupt(images, labels, 0, seen)
        assert whole.shape == images.shape
        assert whole.min() >= 0
        assert whole.max() <= 1
        part = corrupt(images[66:], labels[66:], 66, seen)
        torch.testing.assert_close(part, whole[66:], atol=1e-6, rtol=0)
        changes.append((whole - images).square().mean().item())
    assert changes[0] > 0
    if kind != "pixelate":  # where few pixels become nearly as few, much depends on which fall together
        assert changes == sorted(changes)
    assert changes[-1] > changes[0]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_an_occluded_share_is_exact_and_anywhere(share, seen):
    images = torch.zeros(300, 1, 8, 12)
    hidden = Occlusion(share)(images, torch.zeros(300, dtype=torch.int64), 0, seen) == 0.5
    assert (hidden.flatten(1).float().mean(1) == share).all()
    if share == 0.25:
        assert (hidden.any(0)).all(), "every place is hidden in some image"


class Unchanged(Shift):
    name = "nothing"

    def __call__(self, pixels, labels, first, seen):
        return pixels


def test_where_nothing_is_shifted_every_class_is_kept(seen, splits):
    (found,) = measure_shifts(seen.network, splits.test, [Unchanged()], device=CPU, teacher=seen.network, batch_size=64)
    assert (found.kept, found.agreement, found.top1) == (1.0, 1.0, found.teacher_top1)
    (spread,) = measure_shifts(seen.network, splits.test.spread(50), [Occlusion(1.0)], device=CPU)
    assert spread.teacher_top1 is None
    assert spread.top1 < 0.3


def test_a_spread_of_a_set_is_evenly_taken(splits):
    part: ImageSet = splits.test.spread(10)
    assert torch.equal(part.images, splits.test.images[torch.arange(10) * 50])
    assert len(splits.test.spread(10**6)) == len(splits.test)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"attacks": ["fgms"]}, "fgsm"),
        ({"corruptions": ["fogg"]}, "fog"),
        ({"corruptions": ["fog"], "severities": [6]}, "6 is no severity"),
        ({"attacks": ["pgd"], "epsilons": [2.0]}, "2 is no epsilon"),
        ({"occlusions": [1.5]}, "1.5 is no share"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(asked, said):
    with pytest.raises(UsageError, match=said):
        Request(**asked).shifts()
