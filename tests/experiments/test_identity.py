"""Which images a dataset has is part of what identifies an experiment, whatever kind of dataset it is."""

import pytest

from tekapctl.data import data_spec
from tekapctl.data.datasets.synthetic import Synthetic
from tekapctl.experiments.identity import experiment
from tekapctl.spec import parse


class Scans(Synthetic):
    """A dataset of a user's own, in a folder without a fingerprint."""


def of(data) -> str:
    return experiment(parse({}).model_copy(update={"data": data}))


def test_a_dataset_of_ones_own_in_another_folder_is_another_experiment():
    one, same, other = (Scans(name="synthetic", folder=folder) for folder in ("/a", "/a", "/b"))
    assert of(one) == of(same) != of(other)
    assert one.is_same_as(same)
    assert not one.is_same_as(other)


def test_a_published_dataset_is_the_same_in_every_folder():
    one, other = (
        data_spec("cifar100"),
        data_spec({"name": "cifar100", "folder": "/b", "augment": ["mixup"], "padding": 2}),
    )
    assert one.is_same_as(other)
    assert of(one) == of(data_spec({"name": "cifar100", "folder": "/b"}))


@pytest.mark.parametrize("settings", [{"noise": 2.0}, {"samples": 10}, {"classes": 5}])
def test_other_random_images_have_no_accuracies_to_compare(settings):
    assert not data_spec("synthetic").has_test_images_of(data_spec({"name": "synthetic", **settings}))
    assert data_spec("synthetic").is_same_as(data_spec({"name": "synthetic", "flip": False}))
