"""The table of options agrees with the spec: every path is a field, and every default on the help pages is its own."""

import inspect
from pathlib import Path

import pytest
import typer

from tekapctl.cli import own_images
from tekapctl.cli.build_spec import build_spec
from tekapctl.cli.spec_options import TABLE, SpecOption, options_of, split_usage, values_of
from tekapctl.data import DATASETS
from tekapctl.distillation.methods import METHODS
from tekapctl.errors import UsageError
from tekapctl.settings import Settings, flat_items
from tekapctl.spec import StudentSpec, TeacherSpec
from tekapctl.spec.recipes import recipe

KINDS = {"student": StudentSpec, "teacher": TeacherSpec}
OPTIONS = [
    pytest.param(kind, option, id=f"{kind} {option.flag}")
    for kind in KINDS
    for option in options_of(kind)
    if option.path is not None
]


def defaults_of(path: str, kind: str) -> list:
    """The default of a field; one for each method or dataset that has it where it is one of theirs."""
    sections, (first, _, rest) = {"method": METHODS, "data": DATASETS}, path.partition(".")
    if first in sections and rest not in ("", "name"):
        models = [sections[first][name] for name in sections[first].names()]
        return [model.model_fields[rest].default for model in models if rest in model.model_fields]
    value = KINDS[kind]()
    for part in path.split("."):
        assert part in type(value).model_fields, path
        value = getattr(value, part)
    return [value]


def given(kind: str, **values) -> dict:
    return {option.parameter: None for option in options_of(kind)} | {"set": {}} | values


@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_an_option_sets_a_field_and_states_its_default(kind, option):
    defaults = defaults_of(option.path, kind)
    assert defaults
    if option.default is not None:
        assert set(defaults) == {option.default}
        assert f"[default: {option.shown_default}]" in option.option.help
    elif option.default_text is None and option.fields is None:
        # Nothing to show: nothing is set, or it is off.
        assert set(map(str, defaults)) <= {"None", "()", "{}", "False"}


def test_the_defaults_of_fine_tuning_are_those_that_are_used():
    used = dict(flat_items(recipe("finetune").table)) | own_images.VALIDATION
    shown = {option.path: option.fine_tuning for option in TABLE if option.fine_tuning is not None}
    assert shown == {path: used[path] for path in shown}
    assert used.keys() - shown.keys() == {"batch_size", "optimizer.layer_decay"}


def test_a_learning_rate_of_ones_own_leaves_the_rest_of_fine_tuning_as_it_is(capsys):
    spec = build_spec("teacher", given("teacher", model="torchvision:resnet18", dataset="folder:nowhere", lr=0.001))
    assert (spec.epochs, spec.optimizer.name, spec.optimizer.learning_rate) == (30, "adamw", 0.001)
    told = capsys.readouterr().err
    assert "recipe finetune: 30 epochs, adamw, cosine\n" in told
    assert max(map(len, told.splitlines())) <= 80


EXAMPLES = {bool: True, int: 7, float: 0.25, dict: ["depth=3", "name=a"], str: "resnet20", Path: Path("/images")}
FITTING = {
    "--method": "ab",
    "--dataset": "digits",
    "--device": "cpu",
    "--precision": "bfloat16",
    "--init-epochs": 7,
    "--optimizer": "adamw",
    "--schedule": "cosine",
    "--augment": ["randaugment"],
    "--teacher": ["resnet20", "resnet56"],
    "--track": ["tensorboard"],
    "--graph": False,
}


@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_a_value_reaches_its_field(kind, option):
    value = FITTING.get(option.flag, EXAMPLES[option.type])
    others = {"method": "ab"} if option.flag in ("--beta", "--init-epochs") else {}
    others |= {"val_fraction": 0.2} if option.flag == "--patience" else {}
    before = build_spec(kind, given(kind, **others))
    after = build_spec(kind, given(kind, **others, **{option.parameter: value}))
    if option.flag == "--tekap":  # on for kd already
        after = build_spec(kind, given(kind, tekap=False))
    assert isinstance(after, Settings)
    assert after != before
    if option.fields is None:
        field = after
        for part in option.path.split("."):
            field = getattr(field, part)
        expected = {"depth": 3, "name": "a"} if option.type is dict else str(value) if option.type is Path else value
        assert (list(field) if option.repeatable else field) == expected


def test_an_option_that_was_not_given_sets_nothing():
    for kind in KINDS:
        assert values_of(kind, given(kind, track=[])) == {}


def test_an_entry_can_be_a_switch_a_number_a_path_or_a_list():
    entries = [
        SpecOption("--ema/--no-ema", "ema", bool, "Run", "Average.", default=True),
        SpecOption("-c --clip-grad NORM", "clip", float, "Run", "Clip.", default=1.5),
        SpecOption("--decay-at FRACTION", "at", float, "Run", "Decay.", repeatable=True),
        SpecOption("--recipe FILE", "recipe", Path, "Run", "Recipe."),
    ]
    found = {}

    def command(**given):
        for entry in entries:
            if given[entry.parameter] is not None:
                found.update(entry.values(given[entry.parameter]))

    named = inspect.Parameter.KEYWORD_ONLY
    pieces = [inspect.Parameter(e.parameter, named, default=None, annotation=e.annotation) for e in entries]
    command.__signature__ = inspect.Signature(pieces)
    command.__annotations__ = {piece.name: piece.annotation for piece in pieces}
    app = typer.Typer()
    app.command()(command)
    app(["--no-ema", "-c", "2", "--decay-at", "0.5", "--decay-at", "0.75", "--recipe", "a.toml"], standalone_mode=False)
    assert found == {"ema": False, "clip": 2.0, "at": [0.5, 0.75], "recipe": "a.toml"}
    assert [entry.shown_default for entry in entries] == ["ema", "1.5", None, None]


def test_flags_and_parameters_are_unique_and_the_kinds_share_their_options():
    for kind in KINDS:
        flags = [flag for option in options_of(kind) for flag in split_usage(option.usage)[0]]
        assert len(set(flags)) == len(flags)
    shared = {option.flag for option in TABLE if option.only is None}
    assert {"--epochs", "--dataset", "--lr", "--set", "--spec"} <= shared
    assert shared == {o.flag for o in options_of("student")} & {o.flag for o in options_of("teacher")}


def test_assignments_override_options_and_another_dataset_drops_the_settings_of_the_files(tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text('epochs = 3\nseed = 4\n[data]\nname = "digits"\npadding = 3\n')
    kept = build_spec("teacher", given("teacher", spec=file, epochs=5, set={"epochs": 6, "data.train_fraction": 0.5}))
    assert (kept.epochs, kept.seed, kept.data.padding, kept.data.train_fraction) == (6, 4, 3, 0.5)
    other = build_spec("teacher", given("teacher", spec=file, dataset="cifar10"))
    assert other.data == DATASETS["cifar10"](name="cifar10")
    # The name counts first, wherever it stands.
    late = build_spec("teacher", given("teacher", set={"data.padding": 2, "data.name": "digits"}))
    assert (late.data.name, late.data.padding) == ("digits", 2)


def test_a_file_of_the_other_kind_and_a_preset_beside_a_file_are_refused(tmp_path):
    file = tmp_path / "spec.toml"
    file.write_text('kind = "teacher"\n')
    with pytest.raises(UsageError, match="kind 'teacher'") as refused:
        build_spec("student", given("student", spec=file))
    assert "train-teacher" not in refused.value.problem
    with pytest.raises(UsageError, match="cannot be combined"):
        build_spec("student", given("student", spec=file, preset="kd/vgg13-vgg8"))
