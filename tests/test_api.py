"""The package as a library does what the program does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tekapctl
from tekapctl.errors import UsageError
from tekapctl.spec import parse


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TEKAPCTL_HOME", str(tmp_path))
    page = (Path(__file__).parents[1] / "docs" / "library.md").read_text()
    names = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    told = capsys.readouterr().out
    assert told.count("epoch ") == 4
    assert "of 500 test images" in told
    assert "torch.Size([1, 10]) torch.Size([1, 64])" in told
    run = names["student"]["run"]
    last, best = (tekapctl.load_student(run, best=choice) for choice in (False, True))
    assert last.state_dict().keys() == best.state_dict().keys()
    assert not last.training
    with pytest.raises(UsageError, match="is finished"):
        tekapctl.resume_run(run)
    found = tekapctl.evaluate(run, home=tmp_path, precision="float32")
    assert found["evaluation"]["top1"] == pytest.approx(names["found"]["top1"], abs=0.01)


def test_a_spec_or_its_fields_are_taken(tmp_path):
    spec = parse({"kind": "teacher", "model": "resnet8", "data": "digits", "epochs": 1, "device": "cpu"})
    once = tekapctl.train_teacher(spec, home=tmp_path)
    again = tekapctl.train_teacher(model="resnet8", data="digits", epochs=1, device="cpu", home=str(tmp_path))
    networks = [tekapctl.load_student(each["run"], home=tmp_path) for each in (once, again)]
    for one, two in zip(*(n.state_dict().values() for n in networks), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(UsageError, match="A spec and fields were given"):
        tekapctl.train_teacher(spec, epochs=2, home=tmp_path)
    with pytest.raises(UsageError, match="'krd'"):
        tekapctl.distill(method="krd", home=tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = tekapctl.distil


def test_importing_the_package_does_not_import_pytorch():
    code = "import sys, tekapctl; assert 'torch' not in sys.modules; tekapctl.distill; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
