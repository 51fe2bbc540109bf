"""The diagnosis as a user asks for it and sees it."""

import json

from report.test_report import parsed

DATA = ["--dataset", "digits", "--train-fraction", "0.2", "--student", "resnet8", "--epochs", "2"]
BOTH = ["--method", "crd", "--alpha", "1", "--beta", "0.8", "--set", "method.negatives=64"]


def metrics(tekapctl, run: str) -> list[dict[str, float]]:
    lines = (tekapctl.home / "runs" / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_diagnosed_runs_log_their_figures_and_the_report_draws_them(tekapctl, teacher, tmp_path):
    def distil(*options: str) -> str:
        return tekapctl("distill", "--teacher", teacher, *DATA, *BOTH, *options, "--json").json["run"]

    plain, diagnosed, views = distil(), distil("--diagnose"), distil("--angular", "--diagnose")
    assert not any(name.startswith("diagnosis_") for entry in metrics(tekapctl, plain) for name in entry)
    for entry in metrics(tekapctl, diagnosed):
        assert 0 < entry["diagnosis_logit_noise_share"] < 1
        assert entry["diagnosis_feature_noise_share"] == 0
        assert 0 < entry["diagnosis_logit_variance"] < 0.25
        assert entry["diagnosis_teacher_top1"] > 0.5
    folders = [tekapctl.home / "runs" / run for run in (plain, diagnosed)]
    assert "diagnose = true" in (folders[1] / "spec.toml").read_text()
    of_plain, of_diagnosed = ((folder / "weights.safetensors").read_bytes() for folder in folders)
    assert of_plain == of_diagnosed

    page = tmp_path / "report.html"
    tekapctl("report", diagnosed, views, "--output", str(page))
    words = " ".join(parsed(page.read_text()).text)
    for heading in ("Teacher diversity", "Logit level", "Feature level", "Learned views", "(teacher: "):
        assert heading in words
    assert words.count("Variance:") == 3
    assert words.count("Noise in the student's gradient:") == 2, "views are no noise"
    tekapctl("report", plain, "--output", str(page), "--force")
    assert "Teacher diversity" not in page.read_text()


def test_seeds_trained_together_are_diagnosed_each(tekapctl, teacher):
    shared = ["--teacher", teacher, *DATA, "--method", "kd", "--diagnose", "--json"]
    trials = tekapctl("distill", *shared, "--seeds", "2").json
    alone = tekapctl("distill", *shared, "--seed", "1", "--set", "data_seed=0").json["run"]
    found = [metrics(tekapctl, run) for run in (trials[0]["run"], trials[1]["run"], alone)]
    for entry, other, same in zip(*found, strict=True):
        figures = [name for name in same if name.startswith("diagnosis_") and not name.endswith("seconds")]
        assert {name: entry[name] for name in figures} != {name: other[name] for name in figures}
        assert {name: other[name] for name in figures} == {name: same[name] for name in figures}


def test_without_augmented_teachers_it_says_that_there_is_nothing_to_log(tekapctl, teacher):
    result = tekapctl("distill", "--teacher", teacher, *DATA, "--no-tekap", "--diagnose")
    assert "diagnose has nothing to log" in " ".join(result.err.split())
