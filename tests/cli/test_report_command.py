"""The report as a user makes it."""

import shutil

from report.test_report import parsed
from tekapctl.cli import report
from tekapctl.experiments.comparison import groups
from tekapctl.store.home import Home


def test_a_report_of_runs_is_one_page(tekapctl, teacher, student, tmp_path):
    data = ["--dataset", "digits", "--train-fraction", "0.2", "--epochs", "2", "--name", "reported"]
    for seed in ("0", "1"):
        tekapctl("distill", "--teacher", teacher, "--student", "resnet8", *data, "--seed", seed)
    page = tmp_path / "pages" / "report.html"
    told = tekapctl("report", student, "--name", "reported", "--baseline", "kd + TeKAP", "--output", str(page))
    assert str(page) in told.out
    text = page.read_text()
    words = " ".join(parsed(text).text)
    for expected in ("Accuracy", "Differences", "Training", "Per-class gain", "Confusion", "Class correlation"):
        assert expected in words
    assert "Baseline: kd + TeKAP" in words
    assert f'teacher = "{teacher}"' in words
    assert "http" not in text.split("</style>")[1]
    assert "already exists" in tekapctl.refuses("report", student, "--output", str(page))
    figures = tmp_path / "figures"
    told = tekapctl("report", "--name", "reported", "--output", str(page), "--force", "--figures", str(figures))
    assert "accuracy.pdf" in told.out
    assert len(list(figures.iterdir())) == 4, "there is one group, and so no difference"
    assert "already exists" in tekapctl.refuses(
        "report", student, "-o", str(page.parent / "b"), "--figures", str(figures)
    )


def test_a_run_that_cannot_be_looked_at_costs_its_pictures_only(tekapctl, student, tmp_path):
    folder = tekapctl.home / "runs"
    lost = shutil.copytree(folder / student, folder / "20200101-000000-lost")
    try:
        (lost / "weights.safetensors").unlink()
        tekapctl("report", lost.name, "--output", str(tmp_path / "report.html"))
        words = " ".join(parsed((tmp_path / "report.html").read_text()).text)
        assert "is missing from the figures" in words
        assert "Training" in words
    finally:
        shutil.rmtree(lost)


def test_a_page_whose_name_is_no_text_is_written_and_told(tekapctl, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = tekapctl("report", student, "--output", "\udcff.html")
    assert "\\udcff.html" in told.out
    assert [path.name for path in tmp_path.iterdir()] == ["\udcff.html"]


def test_what_is_no_text_or_steers_terminals_is_shown_in_a_page(tekapctl, student, tmp_path, monkeypatch):
    monkeypatch.setenv("TEKAPCTL_HOME", str(tekapctl.home))
    found = groups.group(groups.find(Home(tekapctl.home), [student]))
    report.write(found, None, tmp_path / "page.html", quiet=True, opening="<p>\udcff\x1b[31m\x9b\tx</p>")
    assert "<p>\\udcff\\x1b[31m\\x9b\tx</p>" in (tmp_path / "page.html").read_text(encoding="utf-8")
