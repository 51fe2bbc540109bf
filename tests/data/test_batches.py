"""Batches: each view of an image is the crop and flip it says, and every epoch can be entered at any step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.data import Batches, ImageSet
from tekapctl.errors import UsageError

CPU = torch.device("cpu")


def image_set(count: int = 30, channels: int = 3, size: int = 8, classes: int = 3) -> ImageSet:
    images = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(0))
    return ImageSet(
        images.to(torch.uint8),
        torch.arange(count) % classes,
        tuple("abc"[:classes]),
        (0.5, 0.4, 0.3)[:channels],
        (0.2, 0.3, 0.1)[:channels],
    )


def batches(seed: int = 0, **settings) -> Batches:
    settings = {"padding": 2, "flip": True, **settings}
    return Batches(image_set(), 8, device=CPU, seed=seed, **settings)


def pad_crop_flip(images: ImageSet, index: int, view: int, padding: int) -> np.ndarray:
    """The published augmentation, a pixel at a time."""
    place, flipped = divmod(view, 2)
    row, column = divmod(place, 2 * padding + 1)
    size = images.images.shape[-1]
    padded = np.pad(images.images[index].numpy(), ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, row : row + size, column : column + size]
    return crop[:, :, ::-1] if flipped else crop


@given(st.integers(0, 29), st.integers(0, 49))
def test_a_view_is_a_crop_of_the_padded_image_and_a_flip(index, view):
    made = batches().at(torch.tensor([index]), torch.tensor([view]))
    np.testing.assert_array_equal(made[0], pad_crop_flip(image_set(), index, view, 2))


@given(st.integers(0, 1000), st.integers(0, 3))
def test_an_epoch_shows_each_sample_once_in_the_view_it_names(seed, epoch):
    source = batches(seed)
    seen = []
    for batch in source.epoch(epoch):
        seen += batch.index.tolist()
        assert torch.equal(batch.images, source.at(batch.index, batch.view))
        assert torch.equal(batch.labels, source.image_set.labels[batch.index])
        assert 0 <= batch.view.min() <= batch.view.max() < source.views
    assert sorted(seen) == list(range(30))


def test_repeated_images_follow_each_other_in_other_views():
    epoch = list(batches(repeats=3).epoch(1))
    index, view = torch.cat([batch.index for batch in epoch]), torch.cat([batch.view for batch in epoch])
    assert len(index) == 30
    assert torch.equal(index, index[::3].repeat_interleave(3))
    assert len(index.unique()) == 10
    assert sum(len(of_image.unique()) > 1 for of_image in view.view(10, 3)) >= 9
    assert set(index.tolist()) != {each for batch in batches(repeats=3).epoch(2) for each in batch.index.tolist()}


@given(st.integers(0, 3), st.integers(0, 4))
def test_an_epoch_entered_at_a_step_goes_on_as_if_it_had_begun_at_its_start(epoch, start):
    whole, rest = list(batches().epoch(epoch)), list(batches().epoch(epoch, start))
    assert [batch.step for batch in whole] == [epoch * 4 + i for i in range(4)]
    for one, other in zip(whole[start:], rest, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.index, other.index)
        assert one.step == other.step


def test_seeds_and_epochs_differ():
    def order(seed: int, epoch: int) -> list[int]:
        return [i for batch in batches(seed).epoch(epoch) for i in batch.index.tolist()]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_in_order_gives_the_images_as_they_are():
    source = batches()
    together = torch.cat([batch.images for batch in source.in_order()])
    plain = np.stack([pad_crop_flip(image_set(), i, source.centre, 2) for i in range(30)])
    np.testing.assert_array_equal(together, plain)


def test_without_padding_and_flip_a_batch_is_not_augmented():
    for batch in batches(padding=0, flip=False).epoch(0):
        expected = np.stack([pad_crop_flip(image_set(), i, 0, 0) for i in batch.index])
        np.testing.assert_array_equal(batch.images, expected)


@given(st.floats(0.01, 1), st.integers(0, 1000))
def test_a_subset_is_stratified_seeded_and_in_order(fraction, seed):
    whole = image_set(60)
    part = whole.subset(fraction, seed)
    assert torch.equal(part.images, whole.subset(fraction, seed).images)
    assert torch.bincount(part.labels).tolist() == [max(1, round(fraction * 20))] * 3
    places = [(whole.images == image).flatten(1).all(1).nonzero().item() for image in part.images]
    assert places == sorted(places)


def test_grey_images_are_given_the_channels_that_a_network_needs():
    grey = image_set(channels=1)
    colour = grey.with_channels(3)
    assert colour.image_shape == (3, 8, 8)
    assert torch.equal(colour.images[:, 2], grey.images[:, 0])
    assert colour.mean == (0.5, 0.5, 0.5)
    with pytest.raises(UsageError, match="3 channels"):
        image_set(channels=3).with_channels(1)


def test_labels_that_do_not_fit_are_damage():
    with pytest.raises(UsageError, match="damaged"):
        ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 5]), ("a", "b"), (0.0,), (1.0,))
