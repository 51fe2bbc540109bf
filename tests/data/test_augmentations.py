"""Augmentations: torchvision's operations, mixing, and equal images however a batch is divided."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_batches import CPU, batches, image_set
from torch.testing import assert_close
from torchvision.transforms import v2

from tekapctl.data import Batches
from tekapctl.data.augment.augmentation import AUGMENTATIONS, Draws, MixSpec
from tekapctl.data.augment.operations import OPERATIONS, ranges
from tekapctl.distributed.shard import micro_batches

BY_IMAGE = [name for name in AUGMENTATIONS if not issubclass(AUGMENTATIONS[name], MixSpec)]
MIXING = [name for name in AUGMENTATIONS if issubclass(AUGMENTATIONS[name], MixSpec)]


def pictures(channels: int = 3) -> torch.Tensor:
    coarse = torch.rand(32, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, 16, mode="bilinear") * 255).to(torch.uint8)


def draws(seed: int = 0, rows: torch.Tensor | None = None) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), 32, torch.arange(32) if rows is None else rows)


@pytest.mark.parametrize("name", BY_IMAGE)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_gives_other_bytes_which_the_draws_alone_decide(name, channels):
    augmentation, images = AUGMENTATIONS[name](), pictures(channels)
    once, again, otherwise = (augmentation.apply(images, draws(seed)) for seed in (1, 1, 2))
    assert once.dtype == torch.uint8
    assert once.shape == images.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, images)
    assert not torch.equal(once, otherwise)


@pytest.mark.parametrize("name", BY_IMAGE)
def test_an_image_is_augmented_alike_in_any_part_of_the_batch(name):
    augmentation, images, rows = AUGMENTATIONS[name](), pictures(), torch.tensor([3, 17, 30])
    together, apart = augmentation.apply(images, draws()), augmentation.apply(images[rows], draws(rows=rows))
    assert torch.equal(together[rows], apart)


@pytest.mark.parametrize(
    ("published", "ours", "bins"),
    [
        (v2.RandAugment, {"shear": 0.3, "rotate": 30.0, "enhance": 0.9, "bits": (8.0, 4.0)}, 31),
        (v2.TrivialAugmentWide, {"shear": 0.99, "rotate": 135.0, "enhance": 0.99, "bits": (8.0, 2.0)}, 31),
        (v2.AugMix, {"shear": 0.3, "rotate": 30.0, "enhance": 0.9, "bits": (4.0, 0.0)}, 10),
    ],
)
def test_operations_and_ranges_are_torchvisions(published, ours, bins):
    images, transform = pictures(), published(interpolation="nearest")
    width = {v2.RandAugment: 150 / 331 * 16, v2.TrivialAugmentWide: 32.0, v2.AugMix: 16 / 3}[published]
    available = ranges(translate=(width, width), **ours)
    space = published._AUGMENTATION_SPACE
    assert set(available) - {"Identity"} == set(space) - {"Identity"}
    for name, (magnitudes, signed) in space.items():
        values = magnitudes(bins, 16, 16)
        for number in (0, bins // 3, bins - 1):
            theirs = 0.0 if values is None else float(values[number])
            negative = signed and number == bins - 1
            value = available[name].value(number / (bins - 1), negative=negative)
            expected = transform._apply_image_or_video_transform(
                images, name, -theirs if negative else theirs, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            difference = OPERATIONS[name](images, value).int() - expected.int()
            assert difference.abs().max() <= 1, f"{name}, {number}: torchvision's ranges are in float32"


def test_colour_jitter_is_torchvisions_with_the_same_factors():
    images = pictures()
    jitter = AUGMENTATIONS["color-jitter"](brightness=0.5, contrast=0.3, saturation=0.7, hue=0.3)
    found = jitter.apply(images, draws())
    factors = (2 * draws().uniform(4) - 1) * torch.tensor([0.5, 0.3, 0.7, 0.3]) + torch.tensor([1.0, 1.0, 1.0, 0.0])
    for image, (brightness, contrast, saturation, hue), ours in zip(images, factors.tolist(), found, strict=True):
        expected = v2.functional.adjust_brightness(image, brightness)
        expected = v2.functional.adjust_contrast(expected, contrast)
        expected = v2.functional.adjust_saturation(expected, saturation)
        expected = v2.functional.adjust_hue(expected, hue)
        assert (ours.int() - expected.int()).abs().max() <= 5, "rounded to bytes once, not four times"


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("seed", range(5))
def test_a_mixed_image_keeps_the_share_that_its_label_says(name, seed):
    black, white = torch.zeros(32, 3, 16, 16, dtype=torch.uint8), torch.full((32, 3, 16, 16), 255, dtype=torch.uint8)
    mixed, share = AUGMENTATIONS[name]().mix(white, black, draws(seed))
    assert 0.5 <= share <= 1
    assert_close(mixed.float().mean() / 255, torch.tensor(share), rtol=0, atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 9))
def test_a_step_is_split_into_nearly_equal_parts(count, parts):
    sizes = micro_batches(count, parts)
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == 1 or min(sizes) >= 2


@pytest.mark.parametrize("names", [("randaugment",), ("mixup", "cutmix"), ("trivialaugment", "cutmix")])
def test_accumulation_splits_a_step_without_changing_its_images(names):
    augment = tuple(AUGMENTATIONS[name]() for name in names)
    whole = list(batches(augment=augment).epoch(2, strong=True))
    parts = list(batches(augment=augment, accumulate=3).epoch(2, strong=True))
    assert [part.ends_step for part in parts[:3]] == [False, False, True]
    for batch in whole:
        own = [part for part in parts if part.step == batch.step]
        assert sum(part.share for part in own) == pytest.approx(1)
        for name in ("images", "strong", "labels", "index", "view", "targets"):
            values = [getattr(part, name) for part in own]
            assert getattr(batch, name) is None or torch.equal(getattr(batch, name), torch.cat(values)), name


def test_targets_are_probabilities_with_the_label_first():
    source = Batches(
        image_set(), 8, device=CPU, padding=0, flip=False, seed=0, augment=(AUGMENTATIONS["mixup"](alpha=1.0),)
    )
    for batch in source.epoch(0):
        assert_close(batch.targets.sum(1), torch.ones(len(batch.labels)))
        assert torch.equal(batch.targets.argmax(1), batch.labels)
