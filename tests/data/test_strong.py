"""Strong augmentation: each change stays within bytes and shape, and depends on nothing but its place in the run."""

import pytest
import torch
from test_batches import CPU, batches

from tekapctl.data.augment.augmentation import Draws
from tekapctl.data.augment.strong import OPERATIONS, augment_strongly
from tekapctl.errors import UsageError


def pictures(channels: int = 3) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (32, channels, 16, 16), generator=source).to(torch.uint8)


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), 32, torch.arange(32))


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_gives_other_images_of_the_same_kind(number, channels):
    apply, low, high = OPERATIONS[number]
    images = pictures(channels)
    for share in (0.0, 0.4, 1.0):
        changed = apply(images, low + (high - low) * share)
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
    # Leaving the image as it is is one of them, a grey one has no saturation, and these reach from 0 to 255 already.
    names_nothing = number == 0 or (channels == 1 and number == 4) or number == 1
    assert names_nothing or not torch.equal(apply(images, low + (high - low) * 0.1), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_changed_and_cut_by_what_the_generator_says(channels):
    images = pictures(channels)
    once, again, otherwise = (augment_strongly(images, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, otherwise)
    assert not torch.equal(once, images)
    grey = torch.tensor([125, 123, 114] if channels == 3 else [120]).view(1, -1, 1, 1)
    cut = (once == grey).all(1).flatten(1).sum(1)
    assert (cut > 0).all()
    assert cut.max() <= 9 * 9, "at most half of each side"


def test_images_of_other_channels_are_refused():
    with pytest.raises(UsageError, match="one or three channels; these have 4"):
        augment_strongly(pictures(4), draws())


def test_batches_give_a_strong_view_beside_the_usual_one_and_the_same_after_a_break():
    made = list(batches().epoch(1, strong=True))
    for plain, both in zip(batches().epoch(1), made, strict=True):
        assert torch.equal(plain.images, both.images)
        assert plain.strong is None
        assert both.strong.shape == both.images.shape
        assert both.strong.device == CPU
        assert not torch.equal(both.strong, both.images)
    later = next(batches().epoch(1, 2, strong=True))
    assert torch.equal(later.strong, made[2].strong)
