"""A network of three channels that was trained on grey images is given grey images by `predict`, too."""

import pytest
import torch

from helpers.pictures import coloured_noise
from helpers.silent import Silent
from tekapctl import models
from tekapctl.commands.evaluate import load_network
from tekapctl.commands.predict import predictor_of
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train.run import execute


def test_predictions_are_those_of_the_evaluation(tmp_path):
    home, teacher = Home(tmp_path / "home"), tmp_path / "teacher.pth"
    torch.save(models.build("resnet8", 2, 3).state_dict(), teacher)
    values = {
        "data": {"name": "folder", "folder": str(coloured_noise(tmp_path / "set")), "size": 8, "channels": "grey"},
        "epochs": 1,
        "batch_size": 8,
        "device": "cpu",
        "student": "resnet8",
        "teacher": str(teacher),
    }
    run = execute(parse(values), home, Silent())["run"]
    trained, spec, splits = load_network(home, run)
    assert trained.network.in_channels == 3
    with torch.no_grad():
        logits = trained.network(trained.network.normalize(splits.test.images))
    expected = logits.softmax(1).max(1).values.tolist()
    paths = [str(path) for path, _ in spec.listing(home.datasets).test]
    found = predictor_of(trained, device="cpu", workers=0).predict(paths)
    assert [each.classes[0][1] for each in found] == pytest.approx(expected, abs=1e-4)
