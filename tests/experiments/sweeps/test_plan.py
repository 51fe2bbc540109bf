"""A sweep's file as trials: all combinations, each with a digest of its own, and all refused that cannot be."""

import math
import tomllib
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.test_folder import make
from tekapctl.data.files.listing import Listing
from tekapctl.errors import UsageError
from tekapctl.experiments.sweeps.plan import Plan, read
from tekapctl.experiments.sweeps.plan import plan as plan_in
from tekapctl.spec import StudentSpec

plan = partial(plan_in, datasets=Path("no-data-sets"))

FOLDER = Path(__file__).parents[3] / "sweeps"
DIGITS = {"data": "digits", "student": "resnet8", "teacher": "resnet14"}


def of(text: str) -> Plan:
    return plan(tomllib.loads(text))


axes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
        "epochs": st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
        "tekap.logit.teachers": st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        "method": st.lists(st.sampled_from(["kd", "crd", "rkd", "dkd"]), min_size=1, max_size=4, unique=True),
    },
).filter(bool)


@given(axes)
@settings(max_examples=40)
def test_a_grid_is_the_product_of_its_axes_in_a_stable_order(grid):
    made = plan({"name": "x", "spec": DIGITS, "grid": grid})
    assert len(made.trials) == math.prod(map(len, grid.values()))
    assert list(made.trials) == list(plan({"name": "x", "spec": DIGITS, "grid": grid}).trials)
    assert len(made.groups) == math.prod(len(values) for path, values in grid.items() if path != "seed")
    seeds = [trial.spec.seed for trial in made.trials.values()]
    assert sorted(set(seeds)) == sorted(grid.get("seed", [0]))
    # The last axis changes fastest.
    path, values = list(grid.items())[-1]
    if path == "seed":
        assert seeds[: len(values)] == values


def test_a_digest_is_of_the_experiment_and_not_of_how_its_file_is_written():
    ways = [
        'name = "a"\n[spec]\ndata = "digits"\nstudent = "resnet8"\ntekap.logit.teachers = 3\n[grid]\nseed = [0, 1]',
        'name = "b"\n[spec]\nname = "mine"\ndevice = "cpu"\ncache_teacher = true\n"data" = {name = "digits"}\n'
        '[grid]\nseed = [1, 0]\nstudent = ["resnet8"]',
        'name = "c"\n[grid.tekap.logit]\nteachers = [3]\n[[grid.any]]\nlabel = "words"\nstudent = "resnet8"\n'
        '"data.name" = "digits"\n',
    ]
    first, second = of(ways[0]), of(ways[1])
    assert set(first.trials) == set(second.trials)
    third = of(ways[2])
    assert set(third.trials) < set(first.trials)
    changed = of(ways[0].replace("teachers = 3", "teachers = 4"))
    assert not set(changed.trials) & set(first.trials)


BEFORE = """
name = "x"
[spec]
data = "digits"
student = "resnet8"
teacher = "TEACHER"
[grid]
seed = [0]
[[before]]
LABEL
model = "resnet14"
data = "digits"
epochs = EPOCHS
"""


def student(teacher: str, label: str = "", epochs: int = 3) -> tuple[str, dict]:
    text = BEFORE.replace("TEACHER", teacher).replace("LABEL", label).replace("EPOCHS", str(epochs))
    digest, trial = list(of(text).trials.items())[-1]
    return digest, {name: need.spec.network for name, need in trial.requires.items()}


def test_a_student_needs_the_teacher_that_comes_first_whatever_it_is_called():
    by_network, requires = student("resnet14")
    assert requires == {"resnet14": "resnet14"}
    by_label, requires = student("large", 'label = "large"')
    assert requires == {"large": "resnet14"}
    assert by_label == by_network
    assert student("resnet14", epochs=4)[0] != by_network, "a student of another teacher is another experiment"
    assert student("resnet20") == (student("resnet20")[0], {})


def test_a_network_among_students_is_trained_alone_with_what_they_share():
    text = """
    name = "x"
    [spec]
    data = "digits"
    student = "resnet8"
    method = "crd"
    epochs = 7
    [[grid.way]]
    label = "alone"
    kind = "teacher"
    [[grid.way]]
    label = "CRD"
    """
    alone, crd = of(text).trials.values()
    assert (alone.spec.kind, alone.spec.network, alone.spec.epochs) == ("teacher", "resnet8", 7)
    assert (crd.label, crd.spec.method.name) == ("CRD", "crd")


def test_another_method_than_the_shared_one_starts_from_its_own_settings():
    shared = {**DIGITS, "method": {"name": "crd", "negatives": 64}}
    made = plan({"name": "x", "spec": shared, "grid": {"method": ["crd", {"name": "rkd", "angle_weight": 3.0}]}})
    first, second = (trial.spec.method for trial in made.trials.values())
    assert first.negatives == 64
    assert second.angle_weight == 3.0
    assert list(made.groups) == ["crd", "rkd angle_weight 3.0"]


PUBLISHED = """
wrn_40_2 > wrn_16_2 | 74.92 | 75.48
wrn_40_2 > wrn_40_1 | 73.54 | 74.14
resnet56 > resnet20 | 70.66 | 71.16
resnet110 > resnet20 | 70.67 | 71.46
resnet110 > resnet32 | 73.08 | 73.48
resnet32x4 > resnet8x4 | 73.33 | 75.51
vgg13 > vgg8 | 72.98 | 73.94
vgg13 > MobileNetV2 | 67.37 | 69.73
ResNet50 > MobileNetV2 | 67.35 | 69.11
ResNet50 > vgg8 | 73.81 | 74.30
resnet32x4 > ShuffleV1 | 74.07 | 75.11
resnet32x4 > ShuffleV2 | 74.45 | 75.65
wrn_40_2 > ShuffleV1 | 74.83 | 76.05
"""


def test_the_published_tables_are_a_sweep_with_their_numbers():
    made = read(FOLDER / "tekap-cifar100.toml", Path())
    assert len(made.trials) == 13 * 5 * 5
    expected = {}
    for line in PUBLISHED.strip().splitlines():
        pair, kd, crd = line.split(" | ")
        expected |= {f"{pair}, {way}": None for way in ("TeKAP logit", "TeKAP feature", "TeKAP both")}
        expected |= {f"{pair}, KD": float(kd) / 100, f"{pair}, CRD": float(crd) / 100}
    published = {label: made.trials[digests[0]].published for label, digests in made.groups.items()}
    assert published == pytest.approx(expected)
    for trial in made.trials.values():
        spec = trial.spec
        assert isinstance(spec, StudentSpec)
        assert trial.group.startswith(f"{spec.teacher} > {spec.student}, ")
        slow = spec.student in ("MobileNetV2", "ShuffleV1", "ShuffleV2")
        assert (spec.epochs, spec.batch_size, spec.optimizer.learning_rate) == (240, 64, 0.01 if slow else 0.05)


def test_a_number_is_published_of_the_published_protocol_alone():
    def number(**more) -> float | None:
        spec = {"preset": "crd/vgg13-vgg8", **more}
        (trial,) = plan({"name": "x", "spec": spec, "grid": {"seed": [7]}}).trials.values()
        return trial.published

    assert number() == pytest.approx(0.7394)
    assert number(cache_teacher=True, device="cpu") == pytest.approx(0.7394)
    assert number(epochs=30) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"', ["no runs", "[grid]"]),
        ('name = "../x"\n[grid]\nseed = [0]', ["name"]),
        ('name = "x"\ngird = 3', ["gird", "unknown field"]),
        ('name = "x"\n[grid]\nseed = 3', ["axis seed", "seed = [...]"]),
        ('name = "x"\n[grid]\nseed = []', ["axis seed"]),
        ('name = "x"\n[grid]\npair = ["a", "b"]', ["pair", "not a spec field"]),
        ('name = "x"\n[grid]\nseed = [0]\nalpha = [1, -1]', ["alpha -1, seed 0", "greater than"]),
        ('name = "x"\n[grid]\nmethod = ["kd", "crdd"]', ["crdd: ", "crd"]),
        ('name = "x"\n[grid]\nseed = [0]\npreset = ["kd/vgg13-vgg9"]', ["kd/vgg13-vgg9, seed 0", "kd/vgg13-vgg8"]),
        ('name = "x"\n[grid]\nseed = [0]\nepochs = [1]\n"epochs.more" = [3]', ["epochs.more is no field"]),
        ('name = "x"\n[grid]\nseed = [1, 1]', ["same experiment"]),
        ('name = "x"\n[grid]\na = [{label = "A", alpha = 1}, {label = "A", alpha = 2}]', ["named 'A'"]),
        ('name = "x"\n[grid]\nseed = [0]\n[[before]]\nmodel = "resnet9000"', ["before 1", "resnet9000"]),
        ('name = "x"\n[grid]\n' + "\n".join(f"a{n} = [{'{},' * 10}]" for n in range(6)), ["1,000,000", "100,000"]),
        (
            'name = "x"\n[spec]\nteacher = "vgg13"\n[grid]\nseed = [0]\n'
            '[[before]]\nlabel = "a"\nmodel = "vgg13"\n[[before]]\nlabel = "b"\nmodel = "vgg13"\nseed = 1',
            ["2 [[before]] runs train vgg13", "label"],
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else value.split("\n", 1)[-1][:40],
)
def test_what_cannot_be_is_refused_in_words(text, words):
    with pytest.raises(UsageError) as refused:
        of(text)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_the_files_of_a_folder_are_read_once_for_all_trials(tmp_path, monkeypatch):
    make(tmp_path / "pictures", {"cat": 5, "dog": 5})
    read, fingerprint = [], Listing.fingerprint.fget
    monkeypatch.setattr(Listing, "fingerprint", property(lambda listing: read.append(listing) or fingerprint(listing)))
    found = plan({"name": "x", "spec": {"data": f"folder:{tmp_path / 'pictures'}"}, "grid": {"seed": [0, 1, 2]}})
    (only,) = {trial.spec.data.fingerprint for trial in found.trials.values()}
    assert only is not None
    assert len(read) == 1
