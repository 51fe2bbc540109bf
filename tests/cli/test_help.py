"""Help pages fit 80 columns and group their options; mistakes are answered with the nearest name."""

import re

import pytest

from tekapctl.cli.app import app
from tekapctl.cli.help import PANELS, _described
from tekapctl.cli.progress import epoch_line


def pages():
    import typer

    def walk(command, path):
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                yield from walk(inner, [*path, name])

    return list(walk(typer.main.get_command(app), []))


@pytest.mark.parametrize("path", pages(), ids=" ".join)
def test_a_help_page_fits_80_columns_and_says_how_to_start(tekapctl, path):
    told = tekapctl(*path, "--help", COLUMNS="80").out
    assert [line for line in told.splitlines() if len(line) > 80] == []
    assert re.search(r"^Examples?:$", told, re.MULTILINE)
    assert "╭" not in told


def test_the_options_of_distill_are_in_groups(tekapctl):
    told = tekapctl("distill", "--help").out
    groups = re.findall(r"^(\w[\w ]*):$", told, re.MULTILINE)
    assert groups[-2:] == ["Global options", "Examples"]
    assert groups[:-1] == [panel for panel in PANELS if panel in groups]
    assert {"Data", "Networks", "Method", "TeKAP", "Optimization", "Run", "Output"} <= set(groups)


def test_every_option_has_a_group_of_the_list_a_description_and_a_metavar():
    import typer

    def commands(command):
        yield command
        for inner in getattr(command, "commands", {}).values():
            if not inner.hidden:
                yield from commands(inner)

    for command in commands(typer.main.get_command(app)):
        for parameter in command.params:
            assert _described(parameter), (command.name, parameter.name)
            if parameter.param_type_name == "option":
                assert getattr(parameter, "rich_help_panel", None) in (None, *PANELS), parameter.name
                completes = "completion" in parameter.name
                assert parameter.is_flag or parameter.metavar or completes, (command.name, parameter.name)


def test_an_epochs_line_fits_80_columns_and_does_not_say_a_loss_twice():
    metrics = {"epoch": 240, "train_loss": 12.345678, "train_cross_entropy": 1.23456, "train_top1": 0.9999}
    metrics |= {"test_top1": 0.9999, "train_seconds": 100.0, "test_seconds": 10.0, "images_per_second": 12345.0}
    alone = epoch_line(metrics, 240, 3600.0)
    assert alone == "epoch 240/240: loss 12.3, train 99.99, test 99.99, 1 h 00 min left"
    everything = epoch_line(metrics | {"train_kd": 12.34567, "train_method": 123.4567}, 240, 3600.0)
    assert "(ce 1.23, kd 12.3, method 123)" in everything
    assert len(everything) <= 80


@pytest.mark.parametrize(
    ("options", "near"),
    [
        (["distill", "--set", "optimizer.momentun=0.8"], "did you mean optimizer.momentum"),
        (["distill", "--set", "momentum=0.8"], "did you mean optimizer.momentum"),
        (["distill", "--set", "tekap.logit.teacher=2"], "did you mean tekap.logit.teachers"),
        (["distill", "--method", "crd", "--set", "method.negativs=3"], "did you mean method.negatives"),
        (["train-teacher", "--set", "bach_size=3"], "did you mean batch_size"),
        (["distill", "--method", "krd"], "Did you mean kd or"),
        (["distill", "--dataset", "cifar"], "did you mean cifar"),
        (["distill", "--student", "resnet8x"], "Did you mean resnet8x4"),
        (["distill", "--preset", "kd/resnet56-resnet2"], "Did you mean kd/resnet56-resnet20"),
        (["distill", "--keep-effect", "nois"], "Did you mean noise"),
        (["fetch", "resnet32x"], "Did you mean resnet32x4"),
        (["study", "control"], "Did you mean controls"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(tekapctl, options, near):
    assert near in tekapctl.refuses(*options)


def test_a_mistyped_field_in_a_file_is_answered_with_the_nearest(tekapctl, tmp_path):
    (tmp_path / "spec.toml").write_text("epoch = 3\n[optimizer]\nweight_decays = 0.1\n")
    told = tekapctl.refuses("distill", "--spec", str(tmp_path / "spec.toml"))
    assert "did you mean epochs" in told
    assert "did you mean optimizer.weight_decay" in told


def test_an_error_is_json_too_where_json_is_asked_for(tekapctl):
    refused = tekapctl("runs", "show", "nothing", "--json", code=2)
    assert refused.json["error"] == "There is no run 'nothing'."
    assert "runs list" in refused.json["remedy"]
    assert "There is no run" in refused.err


def test_two_output_formats_are_refused(tekapctl):
    assert "Choose one" in tekapctl.refuses("compare", "--all", "--csv", "--latex")
