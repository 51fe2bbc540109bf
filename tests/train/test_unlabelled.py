"""Images without labels, whose classes the teacher names."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.logs import recorded
from helpers.program import run
from helpers.silent import Silent
from tekapctl.commands.evaluate import evaluate
from tekapctl.data import load
from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.distillation.objective import cross_entropy
from tekapctl.errors import UsageError
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.train import references, trained
from tekapctl.train.build import build_run
from tekapctl.train.run import execute

CPU = torch.device("cpu")
COUNT = 40
DIGITS = {"name": "digits", "train_fraction": 0.05}
QUICK = {"student": "resnet8", "teacher": "latest", "epochs": 1, "batch_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Digits without their labels, in two subfolders."""
    place = tmp_path_factory.mktemp("unlabelled")
    images = load(parse({"data": "digits"}).data, Path("/"), seed=0).train.images
    for number, image in enumerate(images[-COUNT:]):
        path = place / str(number % 2) / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return place


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    execute(parse({"kind": "teacher", "model": "resnet8", "data": DIGITS, "epochs": 2}), home, Silent())
    return home


def pictures(folder: Path) -> None:
    """Two classes of twelve images."""
    for number in range(24):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.full((20, 20, 3), 10 * number, np.uint8)).save(path)


def spec(folder: Path, *, train_fraction: float = 0.05, **values):
    data = {**DIGITS, "train_fraction": train_fraction, "unlabelled": str(folder)}
    return parse({**QUICK, **values, "data": {**data, **values.get("data", {})}})


def batch(*weights: float, targets: torch.Tensor | None = None) -> Batch:
    index = torch.arange(len(weights))
    images = torch.zeros(len(weights), 1, 8, 8)
    return Batch(images, index % 3, index, index, index, 0, targets=targets, label_weights=torch.tensor(weights))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_cross_entropy_is_that_of_the_labelled_images(label_smoothing):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = cross_entropy(logits, batch(2.0, 0.0, 2.0, 0.0), label_smoothing)
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([0, 2]), label_smoothing=label_smoothing)
    torch.testing.assert_close(found, expected)
    targets = torch.eye(3)[[0, 1, 2, 0]] * torch.tensor([[2.0], [0.0], [2.0], [0.0]])
    mixed = batch(2.0, 0.0, 2.0, 0.0, targets=targets)
    torch.testing.assert_close(cross_entropy(logits, mixed, label_smoothing), expected)
    assert batch(2.0, 0.0, 2.0, 0.0).accuracy(torch.eye(3)[[0, 0, 0, 0]]) == 0.5


def test_the_teacher_names_their_classes(home, folder):
    with recorded() as lines:
        context = build_run(spec(folder), home)
    train = context.splits.train
    labelled = len(train) - COUNT
    assert f"{COUNT} from {folder}; labelled: {labelled}" in "\n".join(lines)
    teacher = trained.load(references.find(home, "latest")).network.eval()
    with torch.no_grad():
        expected = teacher(teacher.normalize(train.images[-COUNT:])).argmax(1)
    assert (train.labels[-COUNT:] == expected).float().mean() >= 0.9  # in another precision
    assert len(train.labels.unique()) > 1
    assert train.label_weights is not None
    assert train.label_weights[labelled:].tolist() == [0.0] * COUNT
    assert train.label_weights.mean().item() == pytest.approx(1)
    kept = [np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]
    assert np.array_equal(train.images[-COUNT:, 0].numpy(), np.stack(kept))


def test_mixing_leaves_their_classes_out(home, folder):
    mixed = spec(folder, data={"augment": ["mixup"]})
    context = build_run(mixed, home)
    for one in context.trainer.train_batches.epoch(0):
        assert one.targets is not None
        assert one.targets.sum(1).min() == 0 or one.label_weights.min() > 0
        assert bool((one.targets.sum(1) <= context.splits.train.label_weights.max() + 1e-5).all())


@pytest.mark.parametrize("method", ["kd", "crd", "wkd-l"])
def test_a_run_without_any_label_is_equal_live_and_cached(home, folder, method):
    wanted = {"name": "crd", "negatives": 16} if method == "crd" else method
    fraction = 0.05 if method == "wkd-l" else 0.0  # it compares two images of each class
    taught = spec(folder, method=wanted, gamma=0.0, train_fraction=fraction)
    runs = [execute(each, home, Silent()) for each in (taught, taught.model_copy(update={"cache_teacher": True}))]
    assert fraction or runs[0]["train_images"] == COUNT
    weights = [(home.runs / each["run"] / "weights.safetensors").read_bytes() for each in runs]
    assert weights[0] == weights[1]


def test_large_sets_are_streamed_with_them(folder, tmp_path):
    home = Home(tmp_path / "home")
    pictures(tmp_path / "images")
    data = {"name": "folder", "folder": str(tmp_path / "images"), "size": 16, "stream": True}
    execute(parse({"kind": "teacher", "model": "resnet8", "data": data, "epochs": 1, "name": "big"}), home, Silent())
    taught = parse({**QUICK, "method": "kd", "data": {**data, "unlabelled": str(folder)}})
    context = build_run(taught, home)
    assert len(context.splits.train.images.paths) == len(context.splits.train)
    epoch = next(iter(Batches(context.splits.train, 8, device=CPU, padding=0, flip=False, seed=0).epoch(0)))
    assert epoch.images.shape[1:] == (3, 16, 16)
    cached = build_run(
        parse({**QUICK, "method": "kd", "data": {**data, "unlabelled": str(folder), "cache": True}}), home
    )
    assert torch.equal(cached.splits.train.labels, context.splits.train.labels)
    batches = Batches(cached.splits.train, 8, device=CPU, padding=0, flip=False, seed=0)
    assert torch.equal(next(iter(batches.epoch(0))).images, epoch.images)


def test_images_of_the_data_set_itself_are_refused(tmp_path):
    pictures(tmp_path)
    data = parse({"data": {"name": "folder", "folder": str(tmp_path), "unlabelled": str(tmp_path / "class0")}}).data
    with pytest.raises(UsageError, match=r"12 unlabelled images .* are in the dataset too"):
        data.load(tmp_path / "downloads")
    # A dataset of links to files among which are the unlabelled ones.
    for path in list(tmp_path.glob("class*/*.png")):
        link = tmp_path / "links" / path.relative_to(tmp_path)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    with pytest.raises(UsageError, match=r"12 unlabelled images .* are in the dataset too"):
        data.model_copy(update={"folder": str(tmp_path / "links")}).load(tmp_path / "downloads")


def test_a_run_is_evaluated_without_the_folder(folder, tmp_path):
    home, place = Home(tmp_path / "home"), tmp_path / "unlabelled"
    pictures(tmp_path / "images")
    shutil.copytree(folder, place)
    data = {"name": "folder", "folder": str(tmp_path / "images"), "size": 16}
    execute(parse({"kind": "teacher", "model": "resnet8", "data": data, "epochs": 1}), home, Silent())
    summary = execute(parse({**QUICK, "data": {**data, "unlabelled": str(place)}}), home, Silent())
    shutil.rmtree(place)
    assert evaluate(home, summary["run"], device="cpu")["model"] == "resnet8"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train_fraction": 0.0, "gamma": 1.0}, "no image has a label"),
        ({"kind": "teacher"}, "need a teacher"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(folder, values, says):
    values = {key: value for key, value in values.items() if key != "train_fraction"} | {
        "data": {**DIGITS, "train_fraction": values.get("train_fraction", 1.0), "unlabelled": str(folder)}
    }
    with pytest.raises(UsageError, match=says):
        parse(values)
    with pytest.raises(UsageError, match="nothing to train on"):
        parse({"data": {"name": "digits", "train_fraction": 0.0}, "gamma": 0.0})


def test_a_folder_that_has_changed_is_refused(home, folder, tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    with pytest.raises(UsageError, match="has no images"):
        build_run(spec(place), home)
    (place / "a.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"1 unlabelled image cannot be read: .*a\.png"):
        build_run(spec(place), home)
    with pytest.raises(UsageError, match="have changed"):
        build_run(spec(place, data={"unlabelled_fingerprint": "0" * 64}), home)


def test_the_option_of_the_program(home, folder):
    options = ("--student", "resnet8", "--dataset", "digits", "--epochs", "1", "--device", "cpu")
    shown = run(
        home.root, "distill", "--teacher", "latest", *options, *("--gamma", "0", "--train-fraction", "0"),
        "--unlabelled", str(folder), "--dry-run", "--no-measure",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert f'unlabelled = "{folder}"' in shown.out
    assert "# steps                    1 " in shown.out
    missing = run(home.root, "distill", "--teacher", "latest", "--unlabelled", "nowhere", *options)
    assert (missing.code, "There is no folder" in missing.err) == (2, True)
