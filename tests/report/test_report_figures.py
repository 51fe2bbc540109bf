"""Figures for papers: vector fonts, sizes that fit a column and a page, whatever the labels hold."""

import json
import re
import sys
import xml.etree.ElementTree as ET

import pytest

from helpers.summaries import plain_summary
from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Finished, Group
from tekapctl.experiments.comparison.table import compare
from tekapctl.report.figures import COLUMN, PAGE, figure_files, write_figures
from tekapctl.spec import parse
from tekapctl.store.home import Home
from tekapctl.store.run import Run

HOSTILE = "<b>$\\frac$ 漢 & \x1b[31m\udcff"


def group(folder, label: str, top1: float, seeds: int, epochs: int = 3) -> Group:
    runs = {}
    for seed in range(seeds):
        run = folder / f"{abs(hash(label))}-{seed}"
        run.mkdir()
        lines = [
            {"epoch": epoch, "test_top1": top1 * epoch / 3, "train_top1": 0.5, "train_loss": 1 / epoch}
            for epoch in range(1, epochs + 1)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        summary = plain_summary(top1 + 0.01 * seed * seed * top1)
        runs[seed] = Finished(Run(run), parse({"data": "digits", "seed": seed}), summary)
    return Group(label, runs)


def written(tmp_path, groups):
    files = figure_files(tmp_path / "figures", Home(tmp_path / "home"), force=False)
    return write_figures(groups, compare(groups, groups[0]), groups[0], files)


def inches(svg: str) -> float:
    return float(ET.fromstring(svg).attrib["width"].removesuffix("pt")) / 72


def test_figures_are_vector_graphics_of_a_column_and_a_page(tmp_path):
    found = written(tmp_path, [group(tmp_path, "no distillation", 0.7, 3), group(tmp_path, HOSTILE, 0.8, 3)])
    names = [f"{name}.{kind}" for name in ("accuracy", "differences", "training") for kind in ("pdf", "svg")]
    assert [file.name for file in found] == names
    texts = {file.stem: file.read_text() for file in found if file.suffix == ".svg"}
    widths = {name: inches(text) for name, text in texts.items()}
    assert widths == pytest.approx({"accuracy": COLUMN, "differences": COLUMN, "training": PAGE}, abs=0.01)
    for text in texts.values():
        words = "".join(ET.fromstring(text).itertext())
        assert "$" in words or "no distillation" in words
        assert "<image" not in text
    for file in found:
        if file.suffix == ".pdf":
            content = file.read_bytes()
            assert content.startswith(b"%PDF")
            assert re.search(rb"/Subtype /(Type0|TrueType|CIDFontType2)", content)
            assert b"/Type3" not in content


def test_the_same_runs_give_the_same_bytes(tmp_path):
    groups = [group(tmp_path, "a", 0.7, 2), group(tmp_path, "b", 0.8, 2)]
    first = [file.read_bytes() for file in written(tmp_path, groups)]
    files = figure_files(tmp_path / "figures", Home(tmp_path / "home"), force=True)
    assert [file.read_bytes() for file in write_figures(groups, compare(groups, groups[0]), groups[0], files)] == first


def test_figures_without_data_are_left_out(tmp_path):
    found = written(tmp_path, [group(tmp_path, "a", 0.7, 1, epochs=0)])
    assert [file.name for file in found] == ["accuracy.pdf", "accuracy.svg"]


def test_existing_files_are_kept_and_a_missing_library_is_named(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "training.svg").write_text("mine")
    with pytest.raises(UsageError, match=r"training\.svg"):
        written(tmp_path, [])
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way of saying that it is not there
    with pytest.raises(UsageError, match=r"pip install \"tekapctl\[figures\]\""):
        figure_files(tmp_path, Home(tmp_path / "home"), force=True)
