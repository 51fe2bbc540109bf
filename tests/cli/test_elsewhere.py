"""Networks of the user's own, and of libraries, as students and teachers of the program."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from models.test_foreign import FACTORIES
from tekapctl.store.weights import read_metadata

DIGITS = ["--dataset", "digits", "--train-fraction", "0.2", "--epochs", "3"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)


def test_a_network_of_the_users_own_is_trained_taught_and_evaluated(tekapctl, teacher, here):
    own = ["--model-arg", "width=8"]
    trained = tekapctl("train-teacher", "--model", "my_nets:small", *own, *DIGITS, "--json").json
    assert (
        read_metadata(tekapctl.home / "runs" / trained["run"] / "weights.safetensors")["model_args"] == '{"width": 8}'
    )
    student = ["distill", "--student", "my_nets:small", *own, *DIGITS, "--method", "at", "--json"]
    taught = tekapctl(*student, "--teacher", teacher).json
    assert taught["evaluation"]["parameters"] == 8 * 9 + 8 + 32 * 10 + 10
    assert tekapctl("evaluate", taught["run"], "--trust-code", "--json").json["model"] == "my_nets:small"
    assert "add --trust-code" in tekapctl.refuses("evaluate", taught["run"])
    by_run = ["distill", "--teacher", trained["run"], "--student", "resnet8", *DIGITS, "--trust-code", "--json"]
    pupil = tekapctl(*by_run).json
    assert pupil["teacher"]["model"] == "my_nets:small"
    assert (
        tekapctl(*student, "--teacher", teacher, "--dry-run", "--no-measure").json["cost"]["parameters"]
        == 8 * 9 + 8 + 32 * 10 + 10
    )


def test_the_documented_factory_makes_a_student(tekapctl, teacher, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    (tmp_path / "my_nets.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    options = ["--student", "my_nets:small", "--model-arg", "width=32", "--teacher", teacher, *DIGITS, "--json"]
    assert tekapctl("distill", *options).json["evaluation"]["parameters"] == 9 * 32 + 32 + 64 + 330


def test_a_checkpoint_of_a_librarys_network_is_a_teacher_by_its_name(tekapctl, here, tmp_path):
    torch.save(get_model("mobilenet_v3_small", num_classes=10).state_dict(), tmp_path / "theirs.pth")
    options = ["--teacher", "theirs.pth", "--teacher-model", "torchvision:mobilenet_v3_small", "--student", "resnet8"]
    done = tekapctl("distill", *options, "--dataset", "digits", "--train-fraction", "0.05", "--epochs", "1", "--json")
    assert done.json["teacher"]["model"] == "torchvision:mobilenet_v3_small"
    told = tekapctl.refuses("distill", "--teacher", "theirs.pth", "--student", "resnet8", "--dataset", "digits")
    assert "compared with" in told
    evaluate = ["evaluate", "theirs.pth", "--model", "torchvision:mobilenet_v3_small", "--dataset", "digits", "--json"]
    assert 0 <= tekapctl(*evaluate).json["evaluation"]["top1"] <= 1


def test_a_librarys_own_weights_are_of_its_own_classes(tekapctl, tmp_path):
    weights = tmp_path / "hub" / "checkpoints"
    weights.mkdir(parents=True)
    torch.save(get_model("resnet18").state_dict(), weights / "resnet18-f37072fd.pth")
    options = ["--teacher", "torchvision:resnet18", "--student", "resnet8", "--dataset", "digits"]
    told = tekapctl.refuses("distill", *options, TORCH_HOME=str(tmp_path))
    assert "has 1000 classes, and digits has 10" in told


def test_a_method_that_needs_what_a_network_does_not_tell_is_refused_before_training(tekapctl, teacher):
    options = ["--student", "torchvision:shufflenet_v2_x0_5", "--method", "ofd", *DIGITS, "--teacher", teacher]
    assert "reads feature maps that the" in tekapctl.refuses("distill", *options)
