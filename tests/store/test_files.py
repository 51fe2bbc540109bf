"""Paths that users write, and files that appear whole."""

import pytest

from tekapctl.errors import UsageError
from tekapctl.store.home import expand_user


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_user("~/data") == tmp_path / "data"
    assert str(expand_user("data/~")) == "data/~"


def test_the_home_folder_of_an_unknown_user_is_refused():
    with pytest.raises(UsageError, match="no home folder for '~nosuchuser'"):
        expand_user("~nosuchuser/x.pth")
