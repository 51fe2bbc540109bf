"""Presets are valid specs, and runs say what they take from them."""

import pytest

from tekapctl.errors import UsageError
from tekapctl.experiments.presets import by_hand, changed, for_pair, preset, presets, published, taken
from tekapctl.spec import parse

IMAGENET = {"teacher": "torchvision:resnet34", "student": "torchvision:resnet18", "data": "imagenet"}


def test_every_preset_is_a_valid_spec_and_is_found_by_its_name():
    known = list(presets())
    assert len({one.name for one in known}) == len(known)
    for one in known:
        if one.is_runnable:
            assert parse(one.table).student.endswith(one.student)
    assert preset(known[-1].name) == known[-1]


def test_every_published_row_is_a_preset():
    listed = [one.published for one in presets()]
    assert all(row in listed for row in published().values())


def test_published_rows_tell_the_sources_of_number_and_settings():
    for row in published().values():
        assert (row.top1 is None) == (row.source is None) == (row.epoch is None)
        assert (row.settings is None) == (row.settings_source is None)
        assert row.source or row.settings_source
    assert {row.epoch for row in published().values()} == {"last", "best", "not stated", None}
    # The log of each of these has the number as its best epoch.
    assert {row.way for row in published().values() if row.epoch == "best"} == {"mlkd-ls"}


def test_a_table_is_the_callers_own():
    first = preset("kd/vgg13-vgg8").table
    first["tekap"]["logit"]["teachers"] = 3
    assert preset("kd/vgg13-vgg8").table["tekap"]["logit"]["teachers"] == 0


def test_rows_without_settings_cannot_be_run():
    with pytest.raises(UsageError, match="Only the accuracy of wkd-lf/resnet32x4-resnet8x4 is published"):
        preset("wkd-lf/resnet32x4-resnet8x4").table  # noqa: B018


def test_unknown_presets_get_the_nearest_three():
    with pytest.raises(UsageError) as nearest:
        preset("kd/vgg13-vgg9")
    assert "kd/vgg13-vgg8" in nearest.value.remedy
    assert nearest.value.remedy.count("/") <= 3
    with pytest.raises(UsageError) as far:
        preset("nosuch/x")
    assert "tekapctl presets" in far.value.remedy


@pytest.mark.parametrize(
    ("method", "batch", "rate"),
    [
        *(("kd", 512, 0.2), ("at", 512, 0.2), ("crd", 256, 0.1), ("dkd", 512, 0.2), ("mlkd", 512, 0.1)),
        *(("wkd-f", 256, 0.1), ("wkd-l", 256, 0.1), ("reviewkd", 256, 0.1), ("dist", 256, 0.1), ("rld", 512, 0.2)),
    ],
)
def test_methods_take_imagenets_schedule(method, batch, rate):
    spec = parse({**IMAGENET, "method": method})
    found = for_pair(spec)
    assert found is not None
    spec = parse(found.table)
    assert (spec.epochs, spec.batch_size, spec.optimizer.learning_rate) == (100, batch, rate)
    assert spec.rate(30) == pytest.approx(rate / 10)


def test_methods_without_a_published_row_have_none():
    assert for_pair(parse({**IMAGENET, "method": "rkd"})) is None
    assert for_pair(parse({"teacher": "resnet32x4", "student": "resnet8x4", "method": "wttm"})) is None


def test_standardized_logits_and_dot_have_rows_of_their_own():
    pair = {"teacher": "resnet56", "student": "resnet20"}
    for more, way in (
        ({"method": "dkd", "standardize_logits": True}, "dkd-ls"),
        ({"method": "mlkd", "standardize_logits": True}, "mlkd-ls"),
        ({"method": "crd", "alpha": 1.0}, "crd-kd"),
    ):
        assert for_pair(parse({**pair, **more})) == preset(f"{way}/resnet56-resnet20")
    dot = parse({"teacher": "vgg13", "student": "vgg8", "method": "kd", "optimizer": {"name": "dot"}})
    assert for_pair(dot) == preset("dot/vgg13-vgg8")


def test_a_run_names_what_it_takes_and_what_it_changes():
    known = preset("dkd/resnet56-resnet20")
    values = known.table | {"epochs": 10, "seed": 3, "device": "cpu"}
    values["method"] |= {"temperature": 2.0}
    given = {"epochs", "seed", "method.temperature"}
    spec = parse(values)
    assert taken(known, spec, given) == {
        "method.target_weight": 1.0,
        "method.non_target_weight": 2.0,
        "method.warmup_epochs": 20,
    }
    assert by_hand(changed(known, spec), given) == {"epochs": 10, "method.temperature": 2.0}
    unused = parse(values | {"beta": 0.0})
    assert taken(known, unused, {"beta"}) == {}


def test_a_teacher_of_ones_own_is_no_other_experiment():
    known = preset("kd/vgg13-vgg8")
    assert changed(known, parse(known.table | {"teacher": "runs/mine"})) == {}
    assert changed(known, parse(known.table | {"teacher": "resnet56"})) == {"teacher": "resnet56"}
    assert changed(known, parse(known.table | {"ensemble": ["vgg13"]})) == {"ensemble": ["vgg13"]}


def test_other_epochs_have_the_usual_milestones():
    known = preset("mlkd/vgg13-MobileNetV2")
    assert parse(known.table_for(480)).rate(150) == pytest.approx(0.001)
    assert parse(known.table_for(10)).schedule.milestones == (0.625, 0.75, 0.875)
    imagenet = preset("imagenet/simkd/resnet50-resnet18")
    assert parse(imagenet.table_for(120)).schedule.milestones == (0.25, 0.5, 0.75)
    assert parse(imagenet.table_for(10)).schedule.milestones == (0.3, 0.6, 0.9)


def test_mlkd_with_standardized_logits_has_the_pairs_epochs():
    assert preset("mlkd-ls/resnet32x4-ShuffleV2").table["epochs"] == 960
    row = preset("mlkd-ls/resnet56-resnet20")
    assert row.published is not None
    assert (row.published.top1, row.table["epochs"], row.table["beta"]) == (72.33, 480, 9.0)


def test_rld_and_ea_kd_have_their_own_settings_on_imagenet():
    rld, eakd = (parse(preset(f"imagenet/{way}/resnet34-resnet18").table) for way in ("rld", "eakd"))
    for spec in (rld, eakd):
        assert (spec.batch_size, spec.optimizer.learning_rate, spec.gamma) == (512, 0.2, 1.0)
        assert spec.rate(99) == pytest.approx(2e-4)
    assert (rld.beta, rld.method.correlation_weight, rld.method.temperature) == (1.0, 0.5, 1.0)
    assert (rld.method.confidence_weight, rld.method.warmup_epochs) == (1.0, 1)
    assert (eakd.beta, eakd.method.temperature) == (0.5, 1.0)
    assert (eakd.method.entropy_temperature, eakd.method.entropy_bound) == (2.0, "log-classes")


def test_tekap_at_the_logit_level_has_the_settings_of_kd_on_imagenet():
    kd, tekap = (parse(preset(f"imagenet/{way}/resnet34-resnet18").table) for way in ("kd", "tekap-l"))
    assert tekap.model_copy(update={"tekap": kd.tekap}) == kd


def test_mlkd_without_a_temperature_is_refused():
    lists = ("temperatures", "strong_temperatures", "again_temperatures")
    with pytest.raises(UsageError, match="all empty"):
        parse({"method": {"name": "mlkd"} | dict.fromkeys(lists, ())})
