"""Cached knowledge: the same training, without asking the teacher twice."""

import copy
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.silent import Silent
from tekapctl.commands.warm_cache import open_cache, warm
from tekapctl.data.batches import CPU
from tekapctl.device import place, resolve_precision
from tekapctl.models import build
from tekapctl.models.fusing import fold
from tekapctl.models.normalization import Normalization
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs
from tekapctl.train.build import build_run
from tekapctl.train.run import execute
from tekapctl.train.teacher import CachedTeacher, LiveTeacher

STUDENT = {
    "student": "resnet8",
    "data": {"name": "digits", "padding": 1, "train_fraction": 0.2},
    "method": {"name": "crd", "negatives": 64},
    "alpha": 1.0,
    "beta": 0.8,
    "epochs": 2,
    "batch_size": 48,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    teacher = {"kind": "teacher", "model": "resnet14", "data": "digits", "epochs": 1, "precision": "float32"}
    execute(parse(teacher), home, Silent())
    return home


def spec_of(**values):
    return parse({**STUDENT, "teacher": "resnet14", **values})


def weights(home: Home, **values) -> dict[str, torch.Tensor]:
    from tekapctl.store.weights import read_weights

    summary = execute(spec_of(**values), home, Silent())
    return read_weights(Runs(home.runs).find(summary["run"]).weights)[0]


def cached_teacher(home: Home, **values) -> CachedTeacher:
    found = build_run(spec_of(cache_teacher=True, **values), home).trainer.objective.teacher
    assert isinstance(found, CachedTeacher)
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_from_cached_knowledge_is_training_from_the_live_teacher(home, precision):
    live = weights(home, precision=precision)
    filling = weights(home, precision=precision, cache_teacher=True)
    filled = weights(home, precision=precision, cache_teacher=True)
    assert all(torch.equal(filling[name], live[name]) for name in live)
    assert all(torch.equal(filled[name], live[name]) for name in live)


def test_weights_are_rounded_once_and_not_in_each_pass(home):
    batches = build_run(spec_of(precision="float32"), home).trainer.train_batches
    batch, casts = next(batches.epoch(0)), Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            casts[str(function)] += 1
            return function(*args, **(kwargs or {}))

    for model in ("resnet14", "wrn_16_1"):
        network = build(model, 10, 1).eval()
        network.normalization = Normalization((0.5,), (0.25,))
        live = LiveTeacher(network, batches, torch.bfloat16)
        casts.clear()
        with Count():
            said = live(batch)
        assert casts["aten._to_copy.default"] <= 2 + live.folding.kept, model
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
        whole = place(fold(network, network.normalize(live.probe)).network, CPU)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            plain = whole.knowledge(whole.normalize(batch.images))
        assert torch.equal(said.logits, plain.logits), model
        assert torch.equal(said.embedding, plain.embedding), model


def test_knowledge_keeps_its_precision_and_its_bits(home):
    for precision in ("float32", "bfloat16"):
        teacher = cached_teacher(home, precision=precision)
        batch = next(teacher.batches.epoch(7))
        live = teacher.live(batch)
        for _ in range(2):
            found = teacher(batch)
            assert found.logits.dtype == live.logits.dtype
            assert torch.equal(found.logits, live.logits)
            assert torch.equal(found.embedding, live.embedding)


def test_a_warm_cache_asks_the_teacher_nothing_and_serves_every_seed_and_fraction(home, monkeypatch):
    teacher = open_cache(spec_of(data={"name": "digits", "padding": 1}, precision="float32"), home)
    found = warm(teacher, lambda done, total: None)
    assert found["complete"]
    assert found["views"] == len(teacher.batches.image_set) * teacher.batches.distinct_views
    again = warm(teacher, lambda done, total: None)
    assert again["computed"] == 0

    other = cached_teacher(home, precision="float32", seed=5)
    assert other.store.path == teacher.store.path
    monkeypatch.setattr(other.live, "forward_pixels", None)
    expected = [
        teacher.live.network.knowledge(teacher.live.network.normalize(b.images)).logits for b in other.batches.epoch(3)
    ]
    for batch, logits in zip(other.batches.epoch(3), expected, strict=True):
        torch.testing.assert_close(other(batch).logits, logits, rtol=1e-4, atol=1e-5)


def test_a_warm_cache_holds_the_bits_of_the_live_teacher(home):
    values = {"data": {"name": "digits", "padding": 0, "train_fraction": 0.1}, "precision": "float32"}
    warm(open_cache(spec_of(**values), home), lambda done, total: None)
    teacher = cached_teacher(home, **values)
    for batch in teacher.batches.epoch(0):
        assert torch.equal(teacher(batch).logits, teacher.live(batch).logits)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_recipe_is_replayed_from_the_cache_to_the_bit(home, accumulate):
    augment = ["trivialaugment", "random-erasing", "mixup", "cutmix"]
    values = {
        "data": {**STUDENT["data"], "augment": augment},
        "optimizer": "adamw",
        "accumulate": accumulate,
        "precision": "float32",
    }
    live = weights(home, **values)
    found = warm(open_cache(spec_of(**values), home), lambda done, total: None)
    assert found["complete"]
    assert found["computed"] == found["views"] == STUDENT["epochs"] * round(found["views"] / STUDENT["epochs"])
    cached = weights(home, cache_teacher=True, **values)
    assert all(torch.equal(cached[name], live[name]) for name in live)
    assert warm(open_cache(spec_of(**values), home), lambda done, total: None)["computed"] == 0


def test_what_knowledge_depends_on_is_part_of_its_key(home):
    paths = {
        cached_teacher(home, **values).store.path
        for values in (
            {"precision": "float32"},
            {"precision": "bfloat16"},
            {"precision": "float32", "data": {"name": "digits", "padding": 2}},
            {"precision": "float32", "data": {"name": "digits", "padding": 1, "flip": True}},
            *(
                {"precision": "float32", "data": {"name": "digits", "augment": ["randaugment"]}, **more}
                for more in ({}, {"epochs": 3}, {"data_seed": 5}, {"batch_size": 20})
            ),
        )
    }
    assert len(paths) == 8


def test_a_damaged_record_is_asked_for_again(home):
    teacher = cached_teacher(home, precision="float32", seed=9)
    batch = next(teacher.batches.epoch(0))
    expected = teacher(batch)
    records = teacher.store.path / "records.bin"
    content = bytearray(records.read_bytes())
    place = int(teacher.places(batch.source_index, batch.view)[0]) * (teacher.store.identity.words + 1) * 4
    content[place] ^= 255
    records.write_bytes(content)
    found = cached_teacher(home, precision="float32", seed=9)(batch)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.embedding, expected.embedding)


@pytest.mark.parametrize("count", [1, 2, 5, 47])
def test_what_the_teacher_says_of_an_image_does_not_depend_on_how_many_it_is_asked_of(home, count):
    teacher = cached_teacher(home, precision="float32").live
    images = next(teacher_batches(home)).images
    whole, some = teacher.forward_pixels(images), teacher.forward_pixels(images[:count])
    assert torch.equal(some.logits, whole.logits[:count])
    assert torch.equal(some.embedding, whole.embedding[:count])


def teacher_batches(home: Home):
    return build_run(spec_of(precision="float32"), home).trainer.train_batches.epoch(0)


@pytest.mark.parametrize("lost", [[0], [3, 7], "all"])
def test_a_run_whose_records_were_lost_goes_on_to_the_bits_of_the_live_teacher(home, tmp_path, lost):
    values = {"precision": "float32", "seed": 11, "batch_size": 43, "method": "kd", "beta": 0.0, "alpha": 0.9}
    live = build_run(spec_of(**values), home).trainer
    live.fit(Silent(), Nowhere())
    cached = build_run(spec_of(cache_teacher=True, **values), home).trainer
    assert len(list(cached.train_batches.epoch(0))[-1].labels) == 1
    teacher = cached.objective.teacher
    stop = Nowhere(after=4)
    with pytest.raises(StopIteration):
        cached.fit(Silent(), stop)
    state, second_epoch = copy.deepcopy(cached.state()), list(cached.train_batches.epoch(1))
    later = [place for batch in second_epoch for place in teacher.places(batch.source_index, batch.view)]
    cached.fit(Silent(), Nowhere())
    records = teacher.store.path / "records.bin"
    content, row = bytearray(records.read_bytes()), (teacher.store.identity.words + 1) * 4
    for number in later if lost == "all" else [later[each] for each in lost]:
        content[number * row] ^= 255
    records.write_bytes(content)
    resumed = build_run(spec_of(cache_teacher=True, **values), home).trainer
    resumed.restore(state)
    resumed.fit(Silent(), Nowhere())
    for trainer in (cached, resumed):
        found = trainer.network.state_dict()
        assert all(torch.equal(found[name], value) for name, value in live.network.state_dict().items())


class Nowhere:
    """Keeps nothing, and may break a run off after so many steps."""

    def __init__(self, after: int | None = None):
        self.left = after

    def after_step(self):
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise StopIteration

    def after_epoch(self, metrics, is_best): ...


def test_methods_that_read_feature_maps_keep_the_teacher_live_and_say_so(home, logged):
    found = build_run(spec_of(method="at", beta=1000.0, alpha=0.0, cache_teacher=True), home)
    assert isinstance(found.trainer.objective.teacher, LiveTeacher)
    assert any("at reads feature maps" in line for line in logged)


def test_networks_of_grouped_convolutions_train_in_float32_on_the_cpu(monkeypatch):
    from tekapctl import device

    monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda: True)
    cpu = torch.device("cpu")
    for name, trains, expected in (
        ("resnet8", True, torch.bfloat16),
        ("MobileNetV2", True, torch.float32),
        ("ShuffleV2", True, torch.float32),
        ("ShuffleV1", False, torch.bfloat16),
    ):
        assert resolve_precision("auto", cpu, build(name), trains=trains) == expected
    assert resolve_precision("bfloat16", cpu, build("MobileNetV2"), trains=True) == torch.bfloat16
