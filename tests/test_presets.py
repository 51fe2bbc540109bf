"""Every preset is a valid spec of its own."""

from tekapctl.experiments.presets import for_pair, preset, presets, published
from tekapctl.spec.run import parse


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


def test_tekap_at_the_logit_level_has_the_settings_of_kd_on_imagenet():
    kd, tekap = (parse(preset(f"imagenet/{way}/resnet34-resnet18").table) for way in ("kd", "tekap-l"))
    assert tekap.model_copy(update={"tekap": kd.tekap}) == kd
