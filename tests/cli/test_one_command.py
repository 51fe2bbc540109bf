"""From a folder of images to a student with one command: the teacher is fitted first, and training stops early."""

import pytest
import torch
from test_own_data import SHAPES, photograph
from torchvision.models import get_model

from tekapctl.spec import load

NETWORK = "torchvision:shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder of images, and a library's weights where it would have downloaded them."""
    place = tmp_path_factory.mktemp("desk")
    for number, (name, shape) in enumerate(SHAPES.items()):
        (place / "shapes" / name).mkdir(parents=True)
        for i in range(40):
            photograph(shape, 1000 * number + i).save(place / "shapes" / name / f"{i}.jpg")
    (place / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    weights = place / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    torch.save(get_model("shufflenet_v2_x0_5").state_dict(), weights)
    return place


def test_one_command_fits_the_teacher_and_distils(tekapctl, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TORCH_HOME", str(desk))
    command = ["distill", "--dataset", "folder:shapes", "--teacher", NETWORK, "--student", NETWORK]
    command += ["--set", "data.size=32", "--batch-size", "32", "--fit-teacher", "probe", "--epochs", "2"]
    planned = tekapctl(*command, "--dry-run", "--no-measure", "--json").json
    assert planned["teacher"]["spec"]["linear_probe"]
    particular = tekapctl(*command, "--teacher-arg", "weights=DEFAULT", "--dry-run", "--json").json
    assert particular["teacher"]["spec"]["model_args"] == {"weights": "DEFAULT"}
    assert particular["measured"]["seconds"] > 0
    done = tekapctl(*command)
    assert "first its classifier is trained" in done.err
    assert "images: " in done.err
    assert "chosen by validation (trained" in done.out
    assert "next        tekapctl export" in done.out
    runs = sorted((tekapctl.home / "runs").iterdir())
    teacher, student = (load(run / "spec.toml") for run in runs[-2:])
    assert student.teacher == runs[-2].name
    assert student.model_args == {"pretrained": True}
    assert student.data.val_fraction == teacher.data.val_fraction == 0.1
    assert student.data.fingerprint == teacher.data.fingerprint
    assert student.optimizer.layer_decay == 0.75
    # The teacher is there now, and is used where it was trained as the command asks.
    again = tekapctl(*command, "--seed", "1")
    assert "first its classifier" not in again.err
    assert load(max((tekapctl.home / "runs").iterdir()) / "spec.toml").teacher == runs[-2].name
    for other in (["--fit-teacher", "finetune"], ["--val-fraction", "0.3"], ["--train-fraction", "0.5"]):
        planned = tekapctl(*command, *other, "--dry-run", "--no-measure", "--json").json
        assert planned["teacher"]["spec"]["data"]["val_fraction"] == planned["spec"]["data"]["val_fraction"]


def test_what_is_wrong_with_the_student_is_said_before_the_teacher_is_trained(tekapctl, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TORCH_HOME", str(desk))
    command = ["--dataset", "folder:shapes", "--teacher", NETWORK, "--set", "data.size=36"]
    before = set((tekapctl.home / "runs").iterdir())
    assert "no torchvision network named" in tekapctl.refuses("distill", *command, "--student", "torchvision:nope")
    assert "nonsense" in tekapctl.refuses("tune", *command, "--student", "resnet8", "--search", "nonsense=1,2")
    wrong = ["--student", NETWORK, "--set", "data.train_fraction=x"]
    assert "must be a valid number, not 'x'" in tekapctl.refuses("distill", *command, *wrong)
    assert set((tekapctl.home / "runs").iterdir()) == before


def test_a_teacher_is_not_fitted_where_that_is_not_wanted(tekapctl, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("TORCH_HOME", str(desk))
    command = ["distill", "--dataset", "folder:shapes", "--teacher", NETWORK, "--student", "resnet8"]
    command += ["--set", "data.size=40"]
    assert "has 1000 classes, and" in tekapctl.refuses(*command, "--fit-teacher", "none")


def test_check_fails_where_an_image_is_in_two_classes(tekapctl, desk, tmp_path):
    assert "warning" not in tekapctl("check", f"folder:{desk / 'shapes'}").out
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(12):
            photograph(None, 5 if i == 5 else 100 * ord(name) + i).save(tmp_path / "few" / name / f"{i}.png")
    found = tekapctl("check", f"folder:{tmp_path / 'few'}", "--json", code=1)
    assert found.json["relabelled"] == [["a/5.png", "b/5.png"]]
    assert "does not consist of image files" in tekapctl.refuses("check", "digits")
