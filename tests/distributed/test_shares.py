"""The shares of several processes are together the batch that one has: images, crops, noise, negatives."""

import numpy as np
import pytest
import torch
from PIL import Image

from tekapctl.data import Batches, data_spec
from tekapctl.distillation.methods.crd.negatives import ClassNegatives
from tekapctl.distillation.tekap import SeededNoise, TekapSpec
from tekapctl.distributed.communicator import Communicator
from tekapctl.randomness import by_rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(26):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return folder


def batches(section, train, comm: Communicator) -> Batches:
    return Batches(
        train,
        10,
        device=CPU,
        padding=section.padding,
        flip=True,
        seed=0,
        random_resized_crop=section.random_resized_crop,
        comm=comm,
    )


@pytest.mark.parametrize("augmentation", ["crop-flip", "resized-crop"])
def test_shares_of_images_are_the_batch(photographs, augmentation):
    section = data_spec({"name": f"folder:{photographs}", "size": 16, "augmentation": augmentation, "workers": 0})
    train = section.load(photographs).train
    alone, *ours = [
        list(batches(section, train, comm).epoch(1, strong=True))
        for comm in (Communicator(), *(Communicator(r, 3) for r in range(3)))
    ]
    for whole, *shares in zip(alone, *ours, strict=True):
        if shares[0].shard.is_full_batch:  # less than two samples for each
            shares = shares[:1]
        for name in ("images", "strong", "labels", "index", "view"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name)), name


@pytest.mark.parametrize(("first", "count"), [(0, 200), (0, 64), (64, 64), (3, 1), (60, 10), (100, 100)])
def test_what_is_drawn_for_a_place_is_the_same_in_any_share(first, count):
    noise = SeededNoise(TekapSpec(), 5)
    whole = noise((2, 200, 7), "logits", 4, CPU)
    assert torch.equal(noise((2, count, 7), "logits", 4, CPU, first), whole[:, first : first + count])
    sampler = ClassNegatives(torch.arange(300) % 5, 20, "relax", seed=1)
    index = torch.arange(200)
    some = slice(first, first + count)
    assert torch.equal(sampler(index[some], 4, first), sampler(index, 4)[some])
    on_device = sampler._draw_on_device(index, 4, 0)
    assert torch.equal(sampler._draw_on_device(index[some], 4, first), on_device[some])


def test_rows_are_drawn_apart():
    drawn = by_rows(lambda rows, source: torch.rand(rows, 2, generator=source), CPU, 0, 500, 0, "test")
    assert len(drawn.unique()) > 990
