"""Validation images: stratified, the same for every seed, and apart from those trained on."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_batches import image_set
from test_folder import make

from tekapctl.data import data_spec, load

NOWHERE = Path("nowhere")


@given(st.floats(0.01, 0.9))
def test_a_fraction_of_each_class_is_held_out(fraction):
    whole = image_set(60)
    kept, held = whole.hold_out(fraction)
    assert torch.bincount(held.labels).tolist() == [min(max(1, round(fraction * 20)), 19)] * 3
    assert sorted(torch.cat([kept.source_index, held.source_index]).tolist()) == list(range(60))
    for part in (kept, held):
        assert torch.equal(part.images, whole.images[part.source_index])
        assert part.fingerprint == whole.fingerprint


def test_an_image_stays_on_its_side_when_others_come():
    many = image_set(90)
    few = many.select(torch.arange(0, 90, 2))
    held = {image.numpy().tobytes() for image in many.hold_out(0.3)[1].images}
    same = sum((image.numpy().tobytes() in held) for image in few.hold_out(0.3)[1].images)
    assert same >= 0.7 * len(few.hold_out(0.3)[1])


def test_every_seed_has_the_same_validation_images_and_a_subset_of_the_others():
    spec = data_spec({"name": "digits", "val_fraction": 0.2, "train_fraction": 0.5})
    first, second = (load(spec, NOWHERE, seed=seed) for seed in (0, 1))
    assert first.val is not None
    assert second.val is not None
    assert torch.equal(first.val.images, second.val.images)
    assert not torch.equal(first.train.images, second.train.images)
    assert not set(first.train.source_index.tolist()) & set(first.val.source_index.tolist())
    whole = load(data_spec("digits"), NOWHERE, seed=0)
    assert torch.equal(first.train.images, whole.train.images[first.train.source_index])
    assert torch.equal(first.test.images, whole.test.images)


def test_files_are_held_out_by_their_names_streamed_or_not_and_in_any_size(tmp_path):
    make(tmp_path, {"cat": 20, "dog": 20})
    (tmp_path / "cat" / "0.png").write_bytes(b"damaged")

    def held(**settings) -> list[int]:
        spec = {"name": f"folder:{tmp_path}", "size": 16, "val_fraction": 0.3, "skip_damaged": True, **settings}
        val = load(data_spec(spec), tmp_path, seed=0).val
        assert val is not None
        return val.source_index.tolist()

    assert held(stream=False) == held(stream=True) == held(stream=False, size=8)
