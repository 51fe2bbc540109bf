"""The options of the training recipe, as a user types them."""

import json
import tomllib

import pytest

from cli.test_spec_options import given
from helpers.program import run
from tekapctl.cli.build_spec import build_spec
from tekapctl.settings import Settings
from tekapctl.spec import RECIPES

QUICK = ("--dataset", "digits", "--train-fraction", "0.2", "--epochs", "2", "--device", "cpu")


def test_all_options_reach_the_spec_of_both_commands(tmp_path):
    options = (
        *("--optimizer", "adamw", "--schedule", "cosine", "--warmup-epochs", "1", "--label-smoothing", "0.1"),
        *("--ema", "0.9", "--clip-grad", "1", "--accumulate", "2", "--augment", "randaugment:magnitude=5,operations=1"),
        *("--augment", "random-erasing", "--mixup", "0.3", "--cutmix", "1", "--val-fraction", "0.2", *QUICK),
    )
    for command in (
        ("train-teacher", "--model", "resnet8"),
        ("distill", "--teacher", "latest", "--student", "resnet8"),
    ):
        trained = run(tmp_path / "home", *command, *options, "--json")
        assert trained.code == 0, trained.err
        summary = json.loads(trained.out)
        spec = tomllib.loads((tmp_path / "home" / "runs" / summary["run"] / "spec.toml").read_text())
        assert (spec["optimizer"]["name"], spec["optimizer"]["clip_grad"]) == ("adamw", 1.0)
        assert (spec["schedule"]["name"], spec["schedule"]["warmup_epochs"]) == ("cosine", 1)
        assert (spec["label_smoothing"], spec["ema"], spec["accumulate"]) == (0.1, 0.9, 2)
        assert [each["name"] for each in spec["data"]["augment"]] == [
            "randaugment",
            "random-erasing",
            "mixup",
            "cutmix",
        ]
        assert spec["data"]["augment"][0]["magnitude"] == 5
        assert {"last_val_top1", "best_val_top1", "raw_top1"} <= set(summary)
    for weights in ("", ":best", ":raw"):
        evaluated = run(tmp_path / "home", "evaluate", f"latest{weights}", "--json")
        assert evaluated.code == 0, evaluated.err
    assert json.loads(evaluated.out)["evaluation"]["top1"] == summary["raw_top1"]
    checked = run(tmp_path / "home", "runs", "verify", "latest")
    assert checked.code == 0, checked.out


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_is_one_word_under_the_options(name, tmp_path):
    shown = run(
        tmp_path / "home",
        "train-teacher",
        "--recipe",
        name,
        "--dataset",
        "digits",
        "--epochs",
        "3",
        "--dry-run",
        "--no-measure",
    )
    assert shown.code == 0, shown.err
    spec = tomllib.loads(shown.out)
    assert spec["epochs"] == 3
    for section, settings in RECIPES[name].table.items():
        if section in ("optimizer", "schedule"):
            assert {key: spec[section][key] for key in settings} == settings
    wanted = RECIPES[name].table.get("data", {}).get("augment", [])
    names = [each if isinstance(each, str) else each["name"] for each in wanted]
    assert [each["name"] for each in spec["data"]["augment"]] == names


def test_options_change_a_part_of_a_recipe(tmp_path):
    def spec(*options: str) -> dict:
        shown = run(
            tmp_path / "home",
            "train-teacher",
            "--recipe",
            "deit",
            *options,
            "--epochs",
            "3",
            "--dry-run",
            "--no-measure",
        )
        assert shown.code == 0, shown.err
        return tomllib.loads(shown.out)

    assert spec()["data"]["name"] == "cifar100"
    changed = spec("--train-fraction", "0.5", "--mixup", "0.3", "--augment", "augmix", "--optimizer", "sgd")
    names = [each["name"] for each in changed["data"]["augment"]]
    assert names == ["randaugment", "random-erasing", "cutmix", "augmix", "mixup"]
    assert changed["data"]["augment"][-1]["alpha"] == 0.3
    assert (changed["optimizer"]["name"], changed["optimizer"]["learning_rate"]) == ("sgd", 0.05)
    assert changed["schedule"]["name"] == "cosine"
    assert spec("--lr", "0.01")["optimizer"]["name"] == "adamw"


def test_pretrained_networks_are_fine_tuned_on_ones_own_images():
    def spec(**options) -> Settings:
        values = {"model": "timm:test_resnet", "dataset": "folder:images", **options}
        return build_spec("teacher", given("teacher", **values))

    pretrained = {"model_arg": ["pretrained=true"]}
    assert spec().model_args == {"pretrained": True}
    assert spec().data.size == 160
    assert spec(model_arg=["pretrained=false"]).optimizer.name == "sgd"
    assert spec(model="resnet20").optimizer.name == "sgd"
    assert spec(**pretrained).optimizer.layer_decay == 0.75
    assert spec(**pretrained, optimizer="sgd").optimizer.layer_decay == 1.0
    assert spec(**pretrained, recipe="cifar").optimizer.name == "sgd"
    assert spec(**pretrained, dataset="cifar100").optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--recipe", "deti", "Did you mean deit?"),
        ("--optimizer", "adam", "did you mean adamw"),
        ("--schedule", "cosin", "did you mean cosine?"),
        ("--augment", "randaug", "did you mean randaugment or"),
        ("--augment", "randaugment:magnitude=99", "magnitude"),
        ("--val-fraction", "1", "--val-fraction"),
        ("--accumulate", "0", "accumulate"),
    ],
)
def test_a_wrong_value_is_refused_in_words(option, value, says, tmp_path):
    refused = run(tmp_path / "home", "train-teacher", option, value, *QUICK)
    assert refused.code == 2
    assert says in refused.err
    assert "Traceback" not in refused.err
