"""What may be searched: ranges and values as they are written, checked against the spec, and drawn."""

from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tekapctl.errors import UsageError
from tekapctl.experiments.tuning.candidates import draw
from tekapctl.experiments.tuning.space import Axis, Choices, Range, default_axes, read_axes
from tekapctl.spec import StudentSpec, parse


def spec(**values) -> StudentSpec:
    found = parse({"student": "resnet8", "teacher": "resnet20", "data": "digits", **values})
    assert isinstance(found, StudentSpec)
    return found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("alpha=0.1..10", Range(0.1, 10.0, is_log=True)),
        ("alpha=1..10", Range(1.0, 10.0, is_log=True)),
        ("alpha=1..9", Range(1.0, 9.0)),
        ("alpha=0..10", Range(0.0, 10.0)),
        ("alpha = 1..9:log", Range(1.0, 9.0, is_log=True)),
        ("alpha=0.1..10:linear", Range(0.1, 10.0)),
        ("optimizer.learning_rate=1e-3..5e-2", Range(1e-3, 5e-2, is_log=True)),
        ("batch_size=16..64", Range(16.0, 64.0, is_integer=True)),
        ("temperature=2,4,8", Choices((2, 4, 8))),
        ("temperature=[2, 4.5]", Choices((2, 4.5))),
        ("schedule.name=step, cosine", Choices(("step", "cosine"))),
        ("schedule=step,cosine", Choices(("step", "cosine"))),
        ("optimizer.nesterov=true,false", Choices((True, False))),
        ('data.augment=[[], ["randaugment"]]', Choices(([], ["randaugment"]))),
    ],
)
def test_ranges_and_values_are_read_as_they_are_written(text, values):
    field = text.partition("=")[0].strip()
    assert read_axes([text], spec()) == [Axis("schedule.name" if field == "schedule" else field, values)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("alpah=1..10", "Did you mean alpha"),
        ("optimizer.momentun=0.5..0.9", "Did you mean optimizer.momentum"),
        ("alpha", "does not say what to search"),
        ("alpha=10..1", "is empty"),
        ("alpha=1..x", "is not a range"),
        ("alpha=1..10:cubic", "is not a range"),
        ("alpha=1..inf", "is not a range"),
        ("alpha=0..10:log", "no logarithmic scale"),
        ("alpha=-1..1", "`alpha` must be greater than or equal to 0"),
        ("alpha=3", "only one value"),
        ("batch_size=16.5..64", "is a whole number"),
        ("schedule.name=1..3", "is not a number"),
        ("schedule.name=step,cosin", "cosin"),
        ("seed=0,1", "cannot be searched"),
        ("data.val_fraction=0.1,0.2", "cannot be searched"),
        ("method=kd,crd", "tuned for one method"),
        ("student=resnet8,resnet14", "tuned for one problem"),
        ("device=cpu,cuda", "does not change the result"),
        ("tekap.feature.noise_std=0.1..1", "has no effect"),
    ],
)
def test_what_cannot_be_searched_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        read_axes([text], spec())


def test_a_field_is_searched_once():
    with pytest.raises(UsageError, match="twice"):
        read_axes(["alpha=1..2", "alpha=3,4"], spec())


def test_a_temperature_that_nothing_reads_is_refused_with_the_one_that_is_read():
    dkd = spec(method="dkd")
    with pytest.raises(UsageError, match=r"`alpha` is 0.*method\.temperature"):
        read_axes(["temperature=2,4"], dkd)
    assert read_axes(["temperature=2,4", "alpha=0,1"], dkd), "the search itself switches it on"
    assert read_axes(["method.temperature=2,4"], dkd)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"method": "kd"}, ["alpha", "temperature"]),
        ({"method": "crd"}, ["beta", "method.temperature"]),
        ({"method": "sp", "alpha": 1.0}, ["alpha", "beta", "temperature"]),
        ({"method": "dkd"}, ["beta", "method.temperature"]),
    ],
)
def test_by_default_the_weights_and_temperatures_of_the_method_are_searched(values, fields):
    found = spec(**values)
    axes = default_axes(found)
    assert [axis.field for axis in axes] == fields
    for axis in axes:
        low, high = axis.values.extremes
        assert low < attrgetter(axis.field)(found) < high
        assert read_axes([f"{axis.field}={low}..{high}:log"], found) == [axis]
    with pytest.raises(UsageError, match="nothing to search"):
        default_axes(spec(alpha=0.0))


NUMBERS = st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.3g}"))


@given(ends=st.tuples(NUMBERS, NUMBERS), places=st.tuples(st.floats(0, 1), st.floats(0, 1)), is_log=st.booleans())
def test_a_range_keeps_its_bounds_and_its_order(ends, places, is_log):
    low, high = sorted(ends)
    first, second = (Range(low, high, is_log).at(place) for place in sorted(places))
    assert low <= first <= second <= high


@given(low=st.integers(1, 1000), more=st.integers(1, 1000), place=st.floats(0, 1), is_log=st.booleans())
def test_a_range_of_whole_numbers_has_whole_numbers(low, more, place, is_log):
    found = Range(float(low), float(low + more), is_log, is_integer=True)
    assert isinstance(found.at(place), int)
    assert low <= found.at(place) <= low + more
    assert found.extremes == (low, low + more)


def test_candidates_are_the_defaults_and_a_sequence_that_more_candidates_continue():
    axes = read_axes(["alpha=0.1..10", "temperature=1..8"], spec())
    few, many = draw(axes, spec(), 5), draw(axes, spec(), 20)
    assert [each.number for each in many] == list(range(21))
    assert many[0].spec == spec()
    assert many[0].settings == {"alpha": spec().alpha, "temperature": 4.0}
    assert [each.settings for each in few] == [each.settings for each in many[:6]]
    assert draw(axes, spec(seed=1), 5)[1].settings != few[1].settings, "the seed counts"
    for each in many[1:]:
        assert each.spec.model_dump() == spec(**each.settings).model_dump()
    # Evenly spread: each quarter of the logarithmic scale has its share.
    quarters = [sum(low <= each.settings["alpha"] < low * 10**0.5 for each in many[1:]) for low in (0.1, 1.0)]
    assert min(quarters) >= 3


def test_a_small_space_is_enumerated_without_the_defaults():
    axes = read_axes(["temperature=2,4,8", "alpha=0.9,1.8"], spec(alpha=0.9))
    found = draw(axes, spec(alpha=0.9), 10)
    assert [tuple(each.settings.values()) for each in found[1:]] == [(2, 0.9), (2, 1.8), (4, 1.8), (8, 0.9), (8, 1.8)]


def test_settings_that_are_not_valid_together_are_left_out(logged):
    axes = [Axis("gamma", Choices((0.0, 1.0))), Axis("alpha", Choices((0.0, 1.0)))]
    found = draw(axes, spec(alpha=1.0, gamma=1.0), 10)
    assert [each.settings for each in found[1:]] == [{"gamma": 0.0, "alpha": 1.0}, {"gamma": 1.0, "alpha": 0.0}]
    assert any("left out 1 settings" in line and "nothing would be learned" in line for line in logged)
    with pytest.raises(UsageError, match="No settings of the search are valid"):
        draw([Axis("alpha", Choices((1.0, 1)))], spec(alpha=1.0), 10)
