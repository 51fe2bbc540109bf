"""Exported files in a repository of the Hugging Face hub, which a local server stands in for."""

import json

import pytest

from helpers.hub import TOKEN, hub

huggingface_hub = pytest.importorskip("huggingface_hub")


def export(tekapctl, student, file, *options, code=0, **variables):
    """Export a student to a file as somebody who has no login but what the variables say."""
    home = file.parent / "hf"
    told = {"HF_HOME": str(home), "HF_TOKEN": "", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "", "HF_HUB_DISABLE_XET": "1"}
    words = ["export", student, "--output", str(file), "--images", "20", *options]
    return tekapctl(*words, code=code, **told | variables)


def test_file_card_and_configuration_are_pushed_in_one_commit(tekapctl, student, tmp_path):
    file = tmp_path / "student.onnx"
    with hub() as server:
        options = ["--push", "digits", "--private", "--license", "mit", "--json"]
        done = export(tekapctl, student, file, *options, HF_ENDPOINT=server.address, HF_TOKEN=TOKEN)
    assert server.commits == 1
    assert server.created[0]["name"] == "digits"
    assert server.files.keys() == {"README.md", "config.json", "preprocessor_config.json", "student.onnx"}
    assert server.files["student.onnx"] == file.read_bytes()
    assert server.files["README.md"] == (tmp_path / "student.onnx.md").read_bytes()
    config = json.loads(server.files["config.json"])
    assert config["id2label"]["3"] == "3"
    assert config["architecture"] == "resnet8"
    assert json.loads(server.files["preprocessor_config.json"])["size"] == {"height": 8, "width": 8}
    assert done.json["pushed"] == f"{server.address}/ada/digits"


def test_without_a_login_or_a_network_nothing_is_exported(tekapctl, student, tmp_path):
    file = tmp_path / "student.onnx"
    with hub() as server:
        told = export(tekapctl, student, file, "--push", "ada/digits", code=2, HF_ENDPOINT=server.address).err
        assert "Nobody is logged in" in told
        assert "hf auth login" in told
        wrong = {"HF_ENDPOINT": server.address, "HF_TOKEN": "hf_of_nobody"}
        told = export(tekapctl, student, file, "--push", "ada/digits", code=1, **wrong).err
        assert "refused" in told
        assert "hf auth login" in told
        assert server.created == []
        nowhere = {"HF_ENDPOINT": server.address, "HF_TOKEN": TOKEN}
    told = export(tekapctl, student, file, "--push", "ada/digits", code=1, **nowhere).err
    assert "could not be reached" in told
    assert "leave out --push" in told
    told = export(tekapctl, student, file, "--push", "no such/name/at all", code=2, **nowhere).err
    assert "not the name of a repository" in told
    assert not file.exists()
