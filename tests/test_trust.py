"""Code is imported only where the user named it, or said that files may."""

import sys

import pytest

from tekapctl import registry
from tekapctl.distillation.methods import METHODS
from tekapctl.errors import UsageError
from tekapctl.models import build
from tekapctl.spec import parse

MODULE = """
from os import system
from torch import nn
from torch.hub import load


def net(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "strange_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "strange_nets", raising=False)
    monkeypatch.setenv("TEKAPCTL_TRUSTED", "")


def test_a_name_that_nobody_gave_is_not_imported():
    with pytest.raises(UsageError, match="`trust_code`"):
        build("strange_nets:net", 5, 1)
    assert "strange_nets" not in sys.modules


@pytest.mark.parametrize(
    "given", [["--model", "strange_nets:net"], {"model": "strange_nets:net"}, "model=strange_nets:net"]
)
def test_a_name_that_was_given_is_imported_and_no_other(given):
    registry.allow_named_in(given)
    assert build("strange_nets:net", 5, 1).num_classes == 5
    with pytest.raises(UsageError, match="`trust_code`"):
        build("strange_nets:other", 5, 1)


@pytest.mark.parametrize("name", ["strange_nets:system", "strange_nets:load", "strange_nets:nn"])
def test_what_a_module_has_of_others_is_out_of_reach(name):
    registry.allow_everything()
    with pytest.raises(UsageError, match="is not defined in strange_nets"):
        build(name, 5, 1)


@pytest.mark.parametrize("name", ["os:system", "builtins:exec", "torch.hub:load", "subprocess:run", "timm.models:load"])
def test_libraries_are_nobodys_own_code(name):
    registry.allow_everything()
    with pytest.raises(UsageError, match="is a library"):
        build(name, 5, 1)


def test_methods_and_data_sets_are_held_to_their_kind():
    registry.allow_everything()
    with pytest.raises(UsageError, match="is not a method"):
        METHODS["strange_nets:net"]
    with pytest.raises(UsageError, match="is not a dataset"):
        parse({"data": "strange_nets:net"})


def test_the_working_folder_is_searched_last(tmp_path):
    (tmp_path / "jaxtyping.py").write_text("raise SystemExit('the wrong one')")
    registry.allow_everything()
    build("strange_nets:net", 5, 1)
    assert sys.path[-1] == str(tmp_path)
