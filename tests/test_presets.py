"""Every preset is a valid spec of its own."""

from tekapctl.presets import preset, presets, published
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
