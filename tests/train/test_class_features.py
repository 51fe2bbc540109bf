"""The images by which a teacher's classes are compared."""

import pytest
import torch

from tekapctl import models
from tekapctl.data.image_set import ImageSet
from tekapctl.distillation.methods.pair import CosineDecay
from tekapctl.distillation.methods.wkd import class_distances
from tekapctl.errors import UsageError
from tekapctl.models.normalization import Normalization
from tekapctl.train.teacher_statistics import chosen_images, class_features

CPU = torch.device("cpu")


def test_each_class_gives_as_many_images_as_the_smallest_has():
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2, 1, 2])
    assert chosen_images(labels, 3, 10).tolist() == [1, 5, 2, 3, 0, 4]
    assert chosen_images(labels, 3, 2).tolist() == [1, 5, 2, 3, 0, 4]
    for few in (labels[:5], torch.tensor([0, 0, 1, 1])):
        with pytest.raises(UsageError, match="one class has fewer"):
            chosen_images(few, 3, 10)


def test_features_are_the_embeddings_of_these_images():
    images = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2, 1, 2])
    network = models.build("resnet8", 3, 3).eval()
    network.normalization = Normalization((0.5,) * 3, (0.2,) * 3)
    found = class_features(
        network, ImageSet(images, labels, tuple("abc"), (0.5,) * 3, (0.2,) * 3), CPU, torch.float32, 10
    )
    expected = network.knowledge(network.normalize(images[torch.tensor([1, 5, 2, 3, 0, 4])])).embedding
    torch.testing.assert_close(found.flatten(0, 1), expected)


def test_distances_of_classes_know_neither_scale_nor_place():
    features = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    moved = features * torch.tensor([1.0, 2.0, 3.0, 0.5]).view(4, 1, 1) + 7
    torch.testing.assert_close(class_distances(moved), class_distances(features), rtol=1e-3, atol=1e-4)
    assert class_distances(features[[0, 0]]).max() < 1e-6


def test_the_weight_falls_from_1_to_0_after_its_epoch():
    decay = CosineDecay(start=6, epochs=10, steps=5)
    assert [decay(step) for step in (0, 29)] == [1.0, 1.0]
    assert [decay(step) for step in (30, 35, 40, 49)] == pytest.approx([0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert CosineDecay(start=10, epochs=10, steps=5)(49) == 1.0
    later = CosineDecay(start=6, epochs=10, steps=5, first=2)
    assert [later(step) for step in (0, 39)] == [1.0, 1.0]
    assert [later(step) for step in (40, 59)] == pytest.approx([0.853553, 0.0], abs=1e-6)
