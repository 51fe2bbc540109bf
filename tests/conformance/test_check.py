"""The checker accounts for every entry of a case, and survives any file."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from conformance.check import check, main
from conformance.test_published import PUBLISHED
from conformance.vectors import Case

METHODS = PUBLISHED["methods"]


def altered(name: str, **changes) -> Case:
    """A case with other entries, None for none, under a name of its own."""
    case = METHODS.case(name)
    scalars = {**case.scalars._entries, **changes}
    return Case(f"{name}_altered", METHODS, scalars, case.tensors._entries)


@pytest.mark.parametrize(
    "name", ["dist_cifar", "kdsvd", "rld", "ea_kd", "wkd_l", "ttm", "wkd_f", "ls_dkd", "mlkd", "srrl"]
)
def test_a_case_whose_name_has_a_suffix_finds_its_method(name):
    result = check(altered(name))
    assert result.agrees, str(result)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        *(("dist_cifar", "inter"), ("mlkd", "loss_cc"), ("dot", "losses_kd"), ("kdsvd", "losses"), ("rld", "loss_ce")),
        *(("angular_near", "target_sum"), ("angular_near", "feature_inter_loss"), ("wkd_l", "weight_used_later")),
        *(("angular_near", "view_ce_weight"), ("ab_identity", "losses"), ("reviewkd", "in_channels")),
        *(("ea_mlkd", "entropy_bound"), ("wkd_f", "eps"), ("angular_near", "total_loss"), ("ft", "first_stage_loss")),
    ],
)
def test_every_expected_number_is_compared(name, entry):
    value = METHODS.case(name).expected(entry)
    wrong = [1.01 * each for each in value] if isinstance(value, list) else 1.01 * value
    assert not check(altered(name, **{entry: wrong})).agrees


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        *(("ab_identity", "margin"), ("dist_cifar", "temperature"), ("ea_kd", "entropy_temperature")),
        *(("rld", "warm_up_factor"), ("ls_dkd", "warm_up_factor"), ("reviewkd", "warm_up_factor")),
        *(("angular_near", "margin"), ("angular_near", "logit_intra_weight"), ("ea_dkd", "entropy_bound")),
    ],
)
def test_settings_are_taken_from_the_case(name, entry):
    assert not check(altered(name, **{entry: 0.5 * METHODS.case(name).expected(entry)})).agrees


def test_an_entry_that_nobody_knows_is_not_compared():
    result = check(altered("dist_cifar", third=1.0))
    assert result.problem == "not compared: third"
    assert check(altered("kdsvd", published_thing=1.0)).agrees, "listed as ignored"
    assert "connector_mode" in check(altered("fitnet_equal", connector_mode="eval")).problem


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "[1, 2]", "null", "3", '{"seed": 1}', '{"cases": {}}', '{"seed": 1, "cases": {}}'),
        *('{"seed": 1, "cases": []}', '{"cases": {"rkd": {"loss": 1}}}', '{"seed": 1, "cases": {"rkd": 3}}'),
        '{"seed": 1, "cases": {"rkd": {}}}',
    ],
)
def test_a_file_that_cannot_be_read_is_one_that_fails(text, tmp_path, capsys):
    path = tmp_path / "vectors.json"
    path.write_text(text)
    assert main([str(path)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("vectors.json")
    assert "FAILS" in first
    assert last == "0 of 1 agree"


def test_good_files_are_checked_beside_bad_ones(tmp_path, capsys):
    source = METHODS.path
    data = {"seed": METHODS.seed, "cases": {"ttm": METHODS.cases["ttm"], "nothing_known": {"loss": 1.0}}}
    good, cut = tmp_path / "good.json", tmp_path / "cut.json"
    good.write_text(json.dumps(data))
    save_file(
        {key: value for key, value in METHODS.tensors.items() if key.startswith("ttm/")}, tmp_path / "good.safetensors"
    )
    shutil.copy(source, cut)
    cut.with_suffix(".safetensors").write_bytes(source.with_suffix(".safetensors").read_bytes()[:1000])
    assert main([str(good), str(cut), str(tmp_path / "absent.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["ttm", "agrees"],
        ["nothing_known", "FAILS"],
        ["cut.json", "FAILS"],
        ["absent.json", "FAILS"],
    ]
    assert lines[-1] == "1 of 4 agree"


def test_inputs_that_no_case_reads_are_told(tmp_path, capsys):
    (tmp_path / "more.json").write_text(json.dumps({"seed": 1, "cases": {"ttm": METHODS.cases["ttm"]}}))
    kept = {key: value for key, value in METHODS.tensors.items() if key.startswith("ttm/")}
    save_file({**kept, "lonely/tensor": kept["ttm/labels"].clone()}, tmp_path / "more.safetensors")
    assert main([str(tmp_path / "more.json")]) == 1
    assert "no case reads it" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--help"], []])
def test_help_ends_with_the_count_as_well(options, capsys):
    assert main(options) == 1
    out = capsys.readouterr().out
    assert "python -m conformance.check" in out
    assert out.splitlines()[-1] == "0 of 0 agree"
