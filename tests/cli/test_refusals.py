"""Bad input: exit code 2, a sentence on what is wrong, and one on what to do."""

import pytest
import torch

from tekapctl.models import build


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train-teacher", "--model", "resnet32x5"], ["'resnet32x5'", "resnet32x4"]),
        (["distill", "--method", "crdd"], ["'crdd'", "crd"]),
        (["distill", "--dataset", "cifar1000"], ["'cifar1000'", "cifar100"]),
        (["distill", "--alpha", "-1"], ["alpha"]),
        (["distill", "--epochs", "0"], ["epochs"]),
        (["distill", "--beta", "0.5"], ["beta"]),
        (["distill", "--train-fraction", "1.5"], ["--train-fraction"]),
        (["distill", "--device", "tpu"], ["device"]),
        (["distill", "--set", "tekap.logit.techers=3"], ["tekap.logit.techers", "unknown field", "tekapctl schema"]),
        (["distill", "--angular", "--tekap"], ["learned views", "TeKAP off"]),
        (["distill", "--set", "nonsense"], ["--set", "optimizer.momentum=0.8"]),
        (["distill", "--spec", "nowhere.toml"], ["nowhere.toml"]),
        (["distill", "--teacher", "resnet32x4"], ["tekapctl fetch resnet32x4"]),
        (["distill", "--teacher", "wrn_40_1"], ["tekapctl train-teacher --model wrn_40_1"]),
        (["distill", "--teacher", "nowhere.pth"], ["nowhere.pth"]),
        (["train-teacher", "--dataset", "cifar100"], ["tekapctl fetch cifar100"]),
        (["train-teacher", "--data-dir", "nowhere"], ["nowhere"]),
        (["evaluate", "no-such-run"], ["no-such-run", "runs list"]),
        (["evaluate", "resnet18"], ["torchvision:resnet18"]),
        (["distill", "--fit-teacher", "finetun"], ["'finetun'", "finetune"]),
        (["evaluate", "../../etc"], ["'../../etc'"]),
        (["runs", "show", ".."], ["'..'"]),
        (["runs", "rm", "\x1b[31mred", "--yes"], ["\\x1b[31mred"]),
        (["fetch", "resnet32x5"], ["'resnet32x5'", "resnet32x4"]),
        (["fetch"], ["--list"]),
        (["fetch", "vgg13", "--offline"], ["--offline"]),
        (["cache", "clear", "teecher", "--yes"], ["teachers"]),
        (["frobnicate"], ["frobnicate"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "\x1b" not in value[-1] else None,
)
def test_what_cannot_be_is_refused_in_words(tekapctl, tmp_path, arguments, words):
    told = tekapctl.refuses(*arguments, TEKAPCTL_HOME=str(tmp_path))
    assert all(word in told for word in words), told
    assert "\x1b" not in told
    assert "Value error" not in told
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_architecture_says_what_differs(tekapctl, tmp_path):
    path = tmp_path / "odd.pth"
    state = build("resnet8").state_dict()
    state["extra.weight"] = torch.zeros(1)
    torch.save({"model": state}, path)
    told = tekapctl.refuses("evaluate", str(path), "--dataset", "digits")
    assert "1 are unknown (extra.weight)" in told
    assert "compared with resnet8" in told


def test_a_spec_of_the_other_kind_names_the_right_command(tekapctl, tmp_path):
    file = tmp_path / "teacher.toml"
    file.write_text('kind = "teacher"\n')
    assert "tekapctl train-teacher" in tekapctl.refuses("distill", "--spec", str(file))


def test_debug_shows_the_traceback(tekapctl):
    result = tekapctl("evaluate", "no-such-run", "--debug", code=1)
    assert "Traceback" in result.err


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(tekapctl, tmp_path):
    asked = ["train-teacher", "--model", "resnet8", "--dataset", "digits", "--compile", "--device", "cpu"]
    assert "C++ compiler" in tekapctl.refuses(*asked, PATH=str(tmp_path), TEKAPCTL_HOME=str(tmp_path / "home"))
    assert not (tmp_path / "home" / "runs").exists()
