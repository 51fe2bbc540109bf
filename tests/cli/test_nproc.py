"""`--nproc`: one command, several processes, as torchrun starts them."""

import json


def test_a_command_with_nproc_trains_on_several_processes_and_speaks_once(tekapctl, teacher):
    options = ["distill", "--teacher", teacher, "--student", "resnet8", "--dataset", "digits", "--epochs", "1"]
    result = tekapctl(*options, "--nproc", "2", "--json")
    folder = tekapctl.home / "runs" / result.json["run"]
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert result.err.count("epoch 1/1") == 1
    assert "teacher" in tekapctl.refuses(*options, "--nproc", "2", "--teacher", "vgg8")


def test_nproc_is_a_number_of_processes(tekapctl):
    assert "--nproc" in tekapctl.refuses("distill", "--nproc", "0")
