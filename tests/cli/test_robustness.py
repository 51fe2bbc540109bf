"""`tekapctl evaluate` under attacks, corruptions and occlusion, and by linear probes."""

import pytest


def test_a_student_is_measured_beside_its_teacher_on_shifted_images(tekapctl, student):
    options = ["--attack", "fgsm", "--epsilon", "0.1", "--corruption", "fog", "--severity", "5", "--occlusion", "0.25"]
    found = tekapctl("evaluate", student, *options, "--probe", "digits", "--limit", "100", "--json").json
    assert [each["shift"] for each in found["robustness"]] == ["FGSM, 0.1", "fog 5", "occlusion, 25 %"]
    for each in found["robustness"]:
        assert each["top1"] <= found["evaluation"]["top1"]
        assert each["teacher_top1"] == pytest.approx(0.5, abs=0.5)
    assert found["transfer"][0]["top1"] > 0.8, "a probe on the digits it was trained on"
    assert 0 < found["evaluation"]["correlation_distance"] < 2
    shown = tekapctl("evaluate", student, *options, "--limit", "100").out
    assert "agreement %" in shown
    assert "occlusion, 25 %" in shown


def test_unknown_shifts_are_refused(tekapctl, student):
    assert "Did you mean pgd" in tekapctl.refuses("evaluate", student, "--attack", "pdg")
    assert "Did you mean fog" in tekapctl.refuses("evaluate", student, "--corruption", "fgo")
