"""Distillation of one's own photographs, from a folder to an evaluated student."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file

from tekapctl import load_student, spec
from tekapctl.data import Batches
from tekapctl.data.files.listing import list_images
from tekapctl.store.home import Home
from tekapctl.store.weights import read_metadata
from tekapctl.train.references import find
from tekapctl.train.trained import load

CPU = torch.device("cpu")

SHAPES = {"disc": "ellipse", "square": "rectangle", "bare": None}


def photograph(shape: str | None, seed: int) -> Image.Image:
    """A shape of random place, size and colour before a blurred ground, with the noise of a sensor."""
    random = np.random.default_rng(seed)
    ground = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((120, 80))
    if shape is not None:
        side = int(random.integers(30, 50))
        x, y = int(random.integers(20, 100 - side)), int(random.integers(0, 80 - side))
        box = (x, y, x + side, y + side)
        getattr(ImageDraw.Draw(ground), shape)(box, fill=tuple(random.integers(0, 256, 3).tolist()), outline="black")
    noise = random.normal(0, 6, (80, 120, 3))
    return Image.fromarray((np.array(ground.filter(ImageFilter.GaussianBlur(1))) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for number, (name, shape) in enumerate(SHAPES.items()):
        (folder / name).mkdir()
        for i in range(40):
            photograph(shape, 1000 * number + i).save(folder / name / f"{i}.jpg")
    return folder


def test_from_a_folder_to_an_evaluated_student(tekapctl, photographs, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    data = ["--dataset", f"folder:{photographs.name}", "--set", "data.size=64", "--batch-size", "16", "--epochs", "4"]
    planned = tekapctl("train-teacher", "--model", "resnet8", *data, "--dry-run", "--json").json
    listing = list_images(photographs.resolve(), 0.2, 0)
    assert planned["cost"]["train_images"] == len(listing.train)
    assert planned["measured"]["seconds"] > 0
    assert planned["measured"]["memory_bytes"] > 2**20
    teacher = tekapctl("train-teacher", "--model", "resnet8", *data, "--json").json
    monkeypatch.chdir("/")
    again = ["--dataset", f"folder:{photographs}", *data[2:]]
    student = ["--student", "torchvision:mobilenet_v3_small", "--model-arg", "pretrained=false", "--method", "sp"]
    student += ["--teacher", teacher["run"]]
    taught = tekapctl("distill", *student, *again, "--json").json
    found = tekapctl("evaluate", taught["run"], "--json").json["evaluation"]
    assert found["images"] == len(listing.test)
    assert set(found["per_class"]) == set(SHAPES)
    assert "--dataset folder:PATH" in tekapctl.refuses("train-teacher", "--dataset", "folder")


def test_photographs_are_named_and_damaged_ones_too(tekapctl, photographs, tmp_path):
    data = ["--dataset", f"folder:{photographs}", "--set", "data.size=32", "--epochs", "2", "--batch-size", "16"]
    trained = tekapctl("train-teacher", "--model", "resnet8", *data, "--json").json
    data_set = spec.load(tekapctl.home / "runs" / trained["run"] / "spec.toml").data
    images, network = data_set.load(photographs).test, load_student(trained["run"], home=tekapctl.home)
    known = [str(path) for path, _ in list_images(photographs, 0.2, 0).test]
    said = tekapctl("predict", trained["run"], *known, "--top", "2", "--json").json
    pixels = next(Batches(images, len(images), device=CPU, padding=0, flip=False, seed=0).in_order()).images
    shares = network(network.normalize(pixels)).softmax(1)
    for each, path, own in zip(said, known, shares, strict=True):
        assert each["image"] == path
        one, other = each["classes"]
        assert [one["probability"], other["probability"]] == pytest.approx(own.topk(2).values.tolist(), abs=1e-4)
        assert images.classes.index(one["class"]) == own.argmax()
        assert images.classes.index(other["class"]) != own.argmax()
    (tmp_path / "odd.jpg").write_bytes(b"no image")
    told = tekapctl("predict", trained["run"], "nowhere.png", known[0], str(tmp_path / "odd.jpg"), code=1)
    assert known[0] in told.out
    assert "nowhere.png cannot be read" in told.err
    assert "odd.jpg cannot be read" in told.err


def test_a_damaged_photograph_stops_nothing_that_is_told_to_go_on(tekapctl, photographs):
    bad = photographs / "disc" / "7.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    data = ["--dataset", f"folder:{photographs}", "--set", "data.size=16", "--epochs", "1", "--model", "resnet8"]
    try:
        assert "disc/7.jpg" in tekapctl.refuses("train-teacher", *data)
        done = tekapctl("train-teacher", *data, "--set", "data.skip_damaged=true", "--json")
        assert "left out 1 damaged image" in done.err
    finally:
        bad.write_bytes(whole)


def test_streamed_photographs_train_as_those_in_memory_do(tekapctl, photographs):
    data = ["--dataset", f"folder:{photographs}", "--set", "data.size=32", "--epochs", "2", "--batch-size", "16"]
    options = ["train-teacher", "--model", "resnet8", *data, "--precision", "float32", "--json"]
    stored = tekapctl(*options).json
    streamed = tekapctl(*options, "--set", "data.stream=true", "--set", "data.workers=2").json
    weights = [load_file(tekapctl.home / "runs" / run["run"] / "weights.safetensors") for run in (stored, streamed)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        # Mean and deviation are summed in another order.
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4)


def test_a_stream_that_is_stopped_by_ctrl_c_goes_on_where_it_was(tekapctl, photographs):
    data = ["--dataset", f"folder:{photographs}", "--set", "data.size=32", "--batch-size", "8", "--json"]
    recipe = [*data, "--set", "data.augmentation=resized-crop", "--set", "data.workers=2", "--precision", "float32"]
    options = ["train-teacher", "--model", "resnet8", *recipe, "--epochs", "6"]
    whole = tekapctl(*options).json
    environment = os.environ | {"TEKAPCTL_HOME": str(tekapctl.home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tekapctl", *options, "--name", "stopped"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        while "epoch 3/6" not in (line := running.stderr.readline()):
            assert line, "it ended too early"
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: all processes get it
        told = running.stderr.read()
    assert running.returncode == 130, told
    assert "the run is saved" in told
    stopped = next((tekapctl.home / "runs").glob("*-stopped-*")).name
    resumed = tekapctl("resume", stopped, "--json").json
    assert resumed["last_top1"] == whole["last_top1"]
    weights = [load_file(tekapctl.home / "runs" / run / "weights.safetensors") for run in (whole["run"], stopped)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    picture = str(next((photographs / "disc").glob("*.jpg")))
    assert tekapctl("predict", stopped, picture, "--json").json[0]["problem"] is None


def test_images_are_classified_and_exported_in_the_size_of_the_test_images(tekapctl, photographs, tmp_path):
    sizes = ["--set", "data.size=16", "--set", "data.test_size=24", "--set", "data.workers=0"]
    run = tekapctl(
        "train-teacher", "--model", "resnet8", "--dataset", f"folder:{photographs}", "--epochs", "1", *sizes, "--json"
    ).json
    assert tekapctl("evaluate", run["run"], "--json").json["evaluation"]["top1"] == run["last_top1"]
    file = tmp_path / "network.safetensors"
    tekapctl("export", run["run"], "--output", str(file))
    assert read_metadata(file)["image_size"] == "24x24"
    teacher = load(find(Home(tekapctl.home), run["run"])).network
    # A student is trained on images of either size.
    assert [teacher.normalize(torch.zeros(1, 3, size, size)).shape[2] for size in (16, 24, 40)] == [16, 24, 24]
    picture = str(next((photographs / "disc").glob("*.jpg")))
    found = [tekapctl("predict", source, picture, "--json").json for source in (run["run"], str(file))]
    assert found[0] == found[1]


OWN = """
import torch
from tekapctl.data import DataSpec, ImageSet, Splits
from tekapctl.data.spec import Shape


class Noise(DataSpec):
    padding: int = 0
    flip: bool = False
    level: int = 100

    @property
    def shape(self):
        return Shape(40, 20, 2, 1, 8, 8)

    def load(self, downloads, *, offline=False):
        def part(count):
            labels = torch.arange(count) % 2
            images = (labels * self.level).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
            return ImageSet(images.contiguous(), labels, ("dark", "light"), (0.2,), (0.2,))
        return Splits(part(40), part(20))
"""


def test_a_data_set_of_a_class_of_ones_own(tekapctl, tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    options = ["--model", "resnet8", "--dataset", "my_data:Noise", "--set", "data.level=200", "--epochs", "4"]
    done = tekapctl("train-teacher", *options, "--batch-size", "8", "--json").json
    assert done["last_top1"] == 1.0
    assert tekapctl("evaluate", done["run"], "--trust-code", "--json").json["evaluation"]["top1"] == 1.0
