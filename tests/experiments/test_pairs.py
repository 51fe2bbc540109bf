"""The table of papers: methods by pairs, with marks after Holm's correction, as text, Markdown, LaTeX and CSV."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Finished
from tekapctl.experiments.comparison.pair_formats import caption, pairs_csv, pairs_latex, pairs_markdown, plain_cells
from tekapctl.experiments.comparison.pairs import Pair, by_pair
from tekapctl.experiments.comparison.statistics import holm, paired
from tekapctl.spec import parse
from tekapctl.store.run import Run

NO_TEKAP = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
NOISE = (0.0, 0.01, 0.004)
TEACHERS = {"resnet14": 0.92, "resnet20": 0.95}


def finished(number: int, top1: float, teacher: str | None = None, **values) -> Finished:
    summary = {"last_top1": top1, "best_top1": top1, "seconds": 1.0, "evaluation": {"parameters": 77_754}}
    if teacher is not None:
        summary["teacher"] = {"model": teacher, "top1": TEACHERS[teacher], "digest": teacher}
        values = {"teacher": f"20260101-0000{teacher[-2:]}-teacher-{teacher}-a0{teacher[-2:]}", **values}
    return Finished(Run(Path(f"{number:04}")), parse({"data": "digits", **values}), summary)


def seeds(number: int, mean: float, teacher: str | None = None, *, spread: float = 1.0, **values) -> list[Finished]:
    return [
        finished(number + seed, mean + spread * noise, teacher, seed=seed, **values) for seed, noise in enumerate(NOISE)
    ]


@pytest.fixture
def runs() -> list[Finished]:
    """Two pairs: KD is better with both, RKD worse with one; students without a teacher, and a teacher's own run."""
    kd, rkd = {"method": "kd", "tekap": NO_TEKAP}, {"method": "rkd"}
    return [
        *seeds(0, 0.95, kind="teacher", model="resnet20"),
        *seeds(10, 0.80, "resnet14", student="resnet8", **kd),
        *seeds(20, 0.75, kind="teacher", model="resnet8", spread=1.01),
        *seeds(30, 0.70, "resnet14", student="resnet8", **rkd),
        *seeds(40, 0.85, "resnet20", student="vgg8", spread=0.95, **kd),
        *seeds(50, 0.78, kind="teacher", model="vgg8"),
        finished(60, 0.784, "resnet20", student="vgg8", **rkd),
    ]


def test_methods_are_rows_and_pairs_are_columns(runs):
    table = by_pair(runs)
    assert table.pairs == [Pair("digits", "resnet14", "resnet8"), Pair("digits", "resnet20", "vgg8")]
    assert list(table.rows) == ["no distillation", "kd", "rkd"]
    assert [top1.mean for top1 in table.teachers] == [0.92, 0.95]
    assert table.left_out == ["resnet20 on digits"]
    assert table.seeds == (1, 3)
    assert plain_cells(table) == [
        ["teacher", "92.00", "95.00"],
        ["no distillation", "75.47 ± 0.51", "78.47 ± 0.50"],
        ["kd", "80.47 ± 0.50 *", "85.44 ± 0.48 *"],
        ["rkd", "70.47 ± 0.50 †", "78.40"],
    ]
    assert [[cell.best for cell in cells] for cells in table.rows.values()] == [[False] * 2, [True] * 2, [False] * 2]


def test_all_comparisons_of_the_table_are_corrected_together(runs):
    table = by_pair(runs)
    means = {("kd", 0): (10, 20), ("rkd", 0): (30, 20), ("kd", 1): (40, 50)}
    by_number = {int(run.run.id): run.top1 for run in runs}
    p = {
        str(place): paired(*([by_number[first + seed] for seed in range(3)] for first in numbers)).p_value
        for place, numbers in means.items()
    }
    adjusted = holm(p)
    for label, column in means:
        assert table.rows[label][column].p_holm == pytest.approx(adjusted[str((label, column))])
    assert table.rows["rkd"][1].p_holm is None
    assert "Holm-corrected for 3 comparisons" in caption(table, bold=True)[-1]


def test_a_baseline_is_a_row(runs):
    table = by_pair(runs, "KD")
    assert table.baseline == "kd"
    assert by_pair(runs, runs[3].run.id) == table
    assert table.rows["no distillation"][0].mark == "†"
    assert table.rows["kd"][0].difference is None
    with pytest.raises(UsageError, match=r"no row 'dk'.*no distillation; kd; rkd"):
        by_pair(runs, "dk")
    with pytest.raises(UsageError, match="no pairs"):
        by_pair(runs[:3])


def test_without_a_baseline_for_a_pair_it_has_no_marks(runs):
    table = by_pair([run for run in runs if run.spec.network != "vgg8" or run.summary.get("teacher")])
    assert table.rows["no distillation"][1] is None
    assert [cells[1].mark for cells in list(table.rows.values())[1:]] == ["", ""]
    assert table.rows["kd"][0].mark == "*"


def test_settings_that_differ_within_a_pair_are_in_the_label_of_all_pairs(runs):
    hot = seeds(70, 0.81, "resnet14", student="resnet8", method="kd", tekap=NO_TEKAP, temperature=8.0)
    table = by_pair([*runs, *hot])
    assert list(table.rows) == ["no distillation", "kd, temperature 4", "rkd", "kd, temperature 8"]
    assert [cell is None for cell in table.rows["kd, temperature 8"]] == [False, True]
    assert [cell is None for cell in table.rows["kd, temperature 4"]] == [False, False]


def test_settings_that_differ_between_pairs_are_told(runs):
    values = {"student": "vgg8", "method": "crd"}
    more = [
        *seeds(70, 0.8, "resnet20", **values, epochs=100),
        *seeds(80, 0.8, "resnet14", **{**values, "student": "resnet8"}),
    ]
    assert by_pair([*runs, *more]).varying == {"crd + TeKAP": ["epochs"]}
    assert by_pair(runs).varying == {}


def test_teachers_with_other_weights_make_other_pairs(runs):
    teacher = "20260102-000000-teacher-resnet14-digits-s1-beef"
    for digests, names in (
        ("ab", ["resnet14 (a014)", "resnet20", "resnet14 (beef)"]),
        ("aa", ["resnet14", "resnet20"]),
    ):
        found = []
        for number, run in enumerate([*runs, *runs[3:6]]):
            values = {"teacher": teacher} if number >= len(runs) else {}
            if run.summary.get("teacher", {}).get("model") == "resnet14":
                values["teacher_digest"] = digests[number >= len(runs)] * 64
            spec = run.spec.model_copy(update=values)
            found.append(replace(run, spec=spec, run=Run(Path(f"{number:04}"))))
        table = by_pair(found)
        assert [pair.teacher for pair in table.pairs] == names
        assert sorted(label for label in table.rows if label.startswith("kd")) == (
            ["kd"] if digests == "ab" else ["kd, teacher a014", "kd, teacher a020", "kd, teacher beef"]
        )


def checked(latex: str) -> str:
    """LaTeX whose braces, environments and columns fit together."""
    plain = re.sub(r"\\[{}]", "", latex)
    depth = 0
    for sign in plain:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", latex):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", latex)[1])
    for line in latex.splitlines():
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans) == columns, line
        assert not re.search(r"(?<!\\)[_#%]", line), line
    return latex


def test_latex_has_marks_and_a_caption_that_explains_them(runs):
    latex = checked(pairs_latex(by_pair(runs)))
    assert r"Teacher & resnet14 & resnet20 \\" in latex
    assert r"Student & resnet8 & vgg8 \\" in latex
    assert r"kd & \textbf{80.47 $\pm$ 0.50}$^{*}$ & \textbf{85.44 $\pm$ 0.48}$^{*}$ \\" in latex
    assert r"rkd & 70.47 $\pm$ 0.50$^{\dagger}$ & 78.40 \\" in latex
    assert r"\caption{Top-1 accuracy (\%)" in latex
    assert r"$^{*}$ significantly better, $^{\dagger}$ significantly worse than no distillation" in latex
    assert r"$\alpha$ = 0.05" in latex
    assert latex.isascii()


def test_latex_names_several_data_sets_over_their_pairs(runs):
    more = seeds(
        90,
        0.6,
        "resnet14",
        student="resnet8",
        method="kd",
        data={"name": "folder", "folder": "/my_photos & more", "fingerprint": "a" * 64},
    )
    table = by_pair([*runs, *more])
    assert [pair.dataset for pair in table.pairs] == ["digits", "digits", "my_photos & more"]
    latex = checked(pairs_latex(table))
    assert r"Dataset & \multicolumn{2}{c}{digits} & \multicolumn{1}{c}{my\_photos \& more} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in latex
    assert "| digits: resnet14 → resnet8 |" in pairs_markdown(table)


def test_markdown_csv_and_json_have_the_same_numbers(runs):
    table = by_pair(runs)
    markdown = pairs_markdown(table)
    assert "| kd | **80.47 ± 0.50**\\* | **85.44 ± 0.48**\\* |" in markdown
    assert "Bold: the best of each pair. \\* significantly better" in markdown
    rows = list(csv.DictReader(io.StringIO(pairs_csv(table))))
    assert rows[2]["resnet20 > vgg8 mean"] == "78.40"
    assert rows[2]["resnet20 > vgg8 std"] == rows[2]["resnet20 > vgg8 p (Holm)"] == ""
    assert rows[1]["resnet14 > resnet8 seeds"] == "3"
    plain = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert plain["pairs"][1] == {"dataset": "digits", "teacher": "resnet20", "student": "vgg8", "teacher_top1": 0.95}
    assert plain["rows"][1]["label"] == "kd"
    assert plain["rows"][1]["cells"][0]["significant"]


def test_a_single_seed_has_no_deviation_and_no_marks(runs):
    table = by_pair([run for run in runs if run.spec.seed == 0])
    assert caption(table, bold=False) == ["Top-1 accuracy (%) on the test images at the end of training, one seed."]
    assert "$\\pm$" not in checked(pairs_latex(table))
