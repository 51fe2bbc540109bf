"""Run specs: complete, frozen, strict, and the same after a trip through a file."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tekapctl.distillation.methods import METHODS
from tekapctl.errors import UsageError
from tekapctl.optim import OPTIMIZERS
from tekapctl.spec import StudentSpec, TeacherSpec, dump, dumps, json_schema, load, loads, merged, parse, to_dict
from tekapctl.train.summary import words

positive = st.floats(1e-6, 1e6)
weights = st.floats(0, 1e6)
data = st.one_of(
    st.sampled_from(["digits", "fashion-mnist", "cifar10", "cifar100"]),
    st.fixed_dictionaries(
        {"name": st.just("synthetic"), "samples": st.integers(10, 99), "train_fraction": st.floats(0.01, 1)}
    ),
)
level = st.fixed_dictionaries(
    {
        "teachers": st.integers(0, 20),
        "teacher_scale": weights,
        "noise_weight": weights,
        "noise_std": weights,
        "distribution": st.sampled_from(["gaussian", "uniform"]),
        "loss_weight": weights,
    }
)
shared = {
    "data": data,
    "epochs": st.integers(1, 500),
    "batch_size": st.integers(1, 4096),
    "seed": st.integers(0, 2**63 - 1),
    "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "optimizer": st.one_of(
        st.fixed_dictionaries({"learning_rate": positive}, optional={"nesterov": st.booleans()}),
        st.sampled_from(["adamw", "muon", {"name": "dot", "delta": 0.05}]),
    ),
    "schedule": st.one_of(
        st.fixed_dictionaries({"milestones": st.lists(st.floats(0.01, 0.99))}), st.sampled_from(["cosine", "one-cycle"])
    ),
    "ema": st.floats(0, 0.9999),
    "label_smoothing": st.floats(0, 0.5),
}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
students = st.fixed_dictionaries(
    {
        **shared,
        "kind": st.just("student"),
        "teacher": names,
        "method": st.sampled_from(["crd", {"name": "crd", "mode": "relax", "negatives": 7}]),
        "gamma": positive,
        "alpha": weights,
        "beta": weights,
        "tekap": st.fixed_dictionaries({"logit": level, "feature": level}),
    },
    optional={"name": names, "teacher_digest": st.just("0" * 64)},
)
teachers = st.fixed_dictionaries(
    {**shared, "kind": st.just("teacher"), "model": st.sampled_from(["vgg8", "ShuffleV2"])}
)


@pytest.mark.parametrize("kind", ["toml", "json"])
@given(values=st.one_of(students, teachers))
def test_a_spec_is_the_same_after_a_trip_through_text(kind, values):
    made = parse(values)
    assert loads(dumps(made, kind), kind) == made


def test_a_spec_is_the_same_after_a_trip_through_a_file(tmp_path):
    made = StudentSpec(method="crd", seed=5)
    for name in ("run.toml", "run.json"):
        dump(made, tmp_path / name)
        assert load(tmp_path / name) == made


def test_the_defaults_are_the_published_protocol():
    made = parse({})
    assert (made.teacher, made.student, made.data.name) == ("resnet32x4", "resnet8x4", "cifar100")
    assert (made.epochs, made.batch_size, made.temperature) == (240, 64, 4.0)
    assert (made.gamma, made.alpha, made.beta) == (0.1, 0.9, 0.0)
    crd = parse({"method": "crd"})
    assert (crd.gamma, crd.alpha, crd.beta) == (1.0, 0.0, 0.8)
    assert (crd.method.negatives, crd.method.temperature, crd.method.momentum) == (16384, 0.07, 0.5)


def test_the_rate_decays_after_epochs_150_180_and_210_of_240():
    rates = [parse({}).rate(epoch) for epoch in (0, 149, 150, 179, 180, 209, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 5e-4, 5e-4, 5e-5, 5e-5])
    assert [parse({"epochs": 24}).rate(epoch) for epoch in (14, 15)] == pytest.approx([0.05, 0.005])


@pytest.mark.parametrize(("network", "rate"), [("resnet8x4", 0.05), ("MobileNetV2", 0.01), ("ShuffleV1", 0.01)])
def test_the_learning_rate_is_the_published_one_of_the_network_that_learns(network, rate):
    assert parse({"student": network}).optimizer.learning_rate == rate
    assert parse({"student": network, "optimizer": {"learning_rate": 0.3}}).optimizer.learning_rate == 0.3
    assert parse({"kind": "teacher", "model": network}).optimizer.learning_rate == rate


def test_published_learning_rates_are_for_sgd():
    assert parse({"student": "MobileNetV2", "optimizer": "adamw"}).optimizer.learning_rate == 1e-3
    assert parse({"student": "MobileNetV2", "optimizer": "dot"}).optimizer.learning_rate == 0.01


def test_an_optimizer_declares_whether_it_takes_published_rates():
    for name in OPTIMIZERS:
        rate = parse({"kind": "teacher", "model": "MobileNetV2", "optimizer": {"name": name}}).optimizer.learning_rate
        default = OPTIMIZERS[name].model_fields["learning_rate"].default
        assert rate == (0.01 if name in ("sgd", "dot") else default)


def test_beta_needs_a_method_with_a_loss_of_its_own():
    for name in METHODS:
        if METHODS[name].has_loss:
            assert parse({"method": name, "beta": 1.0}).beta == 1
        else:
            with pytest.raises(UsageError, match=f"the method {name} has no loss for beta to weigh"):
                parse({"method": name, "beta": 1.0})
    assert [name for name in METHODS if not METHODS[name].has_loss] == ["kd"]


def test_another_optimizer_or_schedule_starts_from_its_own_defaults():
    table = {"optimizer": {"learning_rate": 0.1, "momentum": 0.8}, "schedule": {"milestones": [0.5]}}
    assert merged(table, {"optimizer.name": "adamw", "schedule": "cosine"}) == {
        "optimizer": {"name": "adamw"},
        "schedule": {"name": "cosine"},
    }
    assert merged(table, {"optimizer.name": "sgd"})["optimizer"] == {**table["optimizer"], "name": "sgd"}


def test_a_spec_is_frozen():
    with pytest.raises(ValidationError):
        TeacherSpec().epochs = 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tekap": {"logit": {"techers": 3}}}, ["tekap.logit.techers", "unknown field"]),
        ({"method": {"name": "crd", "negative": 3}}, ["method", "negative"]),
        ({"alpha": -1}, ["alpha", "greater than or equal to 0"]),
        ({"epochs": 0}, ["epochs"]),
        ({"student": "resnt8x4"}, ["student", "resnet8x4"]),
        ({"method": "crdd"}, ["method", "crd"]),
        ({"data": "cifar1000"}, ["data", "cifar100"]),
        ({"gamma": float("nan")}, ["gamma", "finite"]),
        ({"beta": 1.0}, ["kd", "beta to 0"]),
        ({"gamma": 0, "alpha": 0}, ["nothing would be learned"]),
        ({"kind": "ensemble"}, ["kind"]),
        ({"data": {"name": "synthetic", "samples": 10**7, "size": 4096}}, ["4 GiB"]),
    ],
)
def test_what_is_wrong_with_a_spec_is_said_with_its_path(values, words):
    with pytest.raises(UsageError) as error:
        parse(values)
    assert all(word in str(error.value) for word in words), str(error.value)


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_any_table_is_a_spec_or_a_usage_error(value):
    try:
        parse(value if isinstance(value, dict) else {"data": value})
    except UsageError as error:
        assert error.exit_code == 2


@given(st.text())
def test_any_text_is_a_spec_or_a_usage_error(text):
    for kind in ("toml", "json"):
        try:
            loads(text, kind)
        except UsageError:
            pass


def test_the_schema_describes_every_method_and_data_set():
    schema = json.dumps(json_schema())
    for word in ("embedding_width", "train_fraction", "student_term_weight", "test_samples", "milestones"):
        assert word in schema


@pytest.mark.parametrize("field", ["student", "method", "data", "teacher", "optimizer", "tekap", "ensemble"])
@pytest.mark.parametrize("value", [4.0, True, [], {}, "a:b", [1], {"name": 4.0}, None])
def test_a_field_of_another_type_is_a_spec_or_a_usage_error(field, value):
    try:
        parse({field: value})
    except UsageError:
        pass


def test_a_users_own_network_is_not_imported_before_it_is_built():
    assert parse({"student": "this:that"}).student == "this:that"
    assert "this" not in sys.modules


@pytest.mark.parametrize("method", METHODS.names())
def test_tekap_is_on_by_default_for_the_methods_it_was_published_with_alone(method):
    found = parse({"method": method})
    assert found.augmented == (method in ("kd", "crd"))
    levels = {"logit": {"teachers": 3}, "feature": {"teachers": 1}}
    assert parse({"method": method, "tekap": levels}).augmented
    if found.method.requires.level == "feature" and not found.method.tekap:
        assert not parse({"method": method, "tekap": {"logit": {"teachers": 0}}}).augmented
        assert parse({"method": method, "tekap": {"feature": {"noise_weight": 0.2}}}).augmented
    assert parse(to_dict(found)) == found


@pytest.mark.parametrize(
    ("values", "augmented"),
    [
        ({"method": "dkd", "alpha": 0, "tekap": {"logit": {"teachers": 0}}}, False),
        ({"method": "dkd", "alpha": 0, "tekap": {"logit": {"teachers": 3}, "feature": {"teachers": 0}}}, True),
        ({"method": "crd", "alpha": 0, "tekap": {"feature": {"teachers": 0}}}, False),
        ({"method": "crd", "alpha": 1, "tekap": {"feature": {"teachers": 0}}}, True),
        ({"method": "crd", "alpha": 1, "beta": 0, "tekap": {"logit": {"teachers": 0}}}, False),
        ({"method": "kd", "angular": {"views": 2}}, False),
    ],
)
def test_a_run_is_called_tekap_where_a_loss_sees_augmented_teachers(values, augmented):
    found = parse(values)
    assert found.augmented == augmented
    assert ("tekap" in words(found)) == augmented


@given(students)
def test_what_nothing_reads_makes_no_other_experiment(values):
    found = parse(values)
    canonical = found.canonical
    assert canonical.augmented == found.augmented
    assert canonical.canonical == canonical
