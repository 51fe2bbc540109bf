"""Every preset is a valid spec of its own."""

import pytest

from tekapctl.experiments.presets import for_pair, preset, presets, published
from tekapctl.spec import parse


def test_every_preset_is_a_valid_spec_and_is_found_by_its_name():
    known = list(presets())
    assert len({one.name for one in known}) == len(known)
    for one in known:
        assert parse(one.table).student.endswith(one.student)
    assert preset(known[-1].name) == known[-1]


def test_every_published_row_is_a_preset():
    listed = [one.published for one in presets()]
    assert all(row in listed for row in published().values())


def test_settings_of_a_pair_never_switch_tekap_off():
    networks = {"teacher": "torchvision:resnet34", "student": "torchvision:resnet18", "data": "imagenet"}
    assert for_pair(parse({**networks, "method": "dkd"})) == preset("imagenet/dkd/resnet34-resnet18")
    assert for_pair(parse({**networks, "method": "kd"})) is None


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
