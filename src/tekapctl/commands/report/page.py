"""The report page: one self-contained HTML file about groups of runs."""

import logging
import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime

from markupsafe import Markup

from tekapctl import __version__
from tekapctl.commands.report import charts, drawing
from tekapctl.commands.report.parts import Figure, Panel, Section, render
from tekapctl.commands.report.predictions import Predictions, Predictor
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import Group
from tekapctl.experiments.comparison.table import COLUMNS, Row, cells
from tekapctl.spec import dumps

logger = logging.getLogger(__name__)

_POINTS = 1000
_CLASSES_SHOWN = 10
_MOST_BARS = 30
_MOST_CONFUSIONS = 20
_SHOWN_PAIRS = 12


def page(groups: Sequence[Group], baseline: Group, rows: Sequence[Row], predictor: Predictor, opening: str = "") -> str:
    """The whole page, as HTML without external resources.

    Args:
        groups: The groups of runs.
        baseline: The group that the others are compared with.
        rows: The table of their comparison.
        predictor: Runs the networks on the test images.
        opening: A study's section, as HTML; it replaces the table's own significance tests.
    """
    how = "Mean and standard deviation over seeds after the last epoch. The best epoch was selected on the test images."
    if not opening:
        how += (
            " Differences are paired by seed, with 95 % Student's t intervals; p-values are Holm-corrected for all "
            "comparisons of the table."
        )
    # A study has tested its contrasts already: a second p-value with another correction would contradict them.
    table = [row[: len(COLUMNS)] if opening else row for row in cells(rows, baseline.label)]
    notes, networks = _networks(groups, baseline, predictor)
    sections = [charts.training(groups), charts.diversity(groups), *networks]
    return render(
        "page.html",
        title=_title(groups),
        lead=_lead(groups, baseline),
        opening=Markup(opening),
        accuracy_how=how,
        cells=table,
        baseline=baseline.label,
        differences=None if opening else _differences(rows, baseline),
        sections=[each for each in sections if each is not None],
        notes=notes,
        groups=[
            {
                "label": group.label,
                "runs": ", ".join(group.runs[seed].run.id for seed in sorted(group.runs)),
                "spec": dumps(group.first.spec),
            }
            for group in groups
        ],
        version=__version__,
        date=f"{datetime.now().astimezone():%Y-%m-%d}",
    )


def _title(groups: Sequence[Group]) -> str:
    specs = [group.first.spec for group in groups]
    networks = list(dict.fromkeys(spec.network for spec in specs))
    data = list(dict.fromkeys(spec.data.name for spec in specs))
    few = networks if len(networks) < 4 else [*networks[:3], "others"]
    return f"{', '.join(few)} on {', '.join(data)}"


def _lead(groups: Sequence[Group], baseline: Group) -> str:
    runs = sum(len(group.runs) for group in groups)
    seeds = sorted({seed for group in groups for seed in group.runs})
    teachers = list(
        dict.fromkeys(
            f"{found['model']} ({100 * found['top1']:.2f} %)"
            for group in groups
            for one in group.runs.values()
            if (found := one.summary.get("teacher")) and isinstance(found.get("top1"), float)
        )
    )
    taught = f" Teacher{'s' * (len(teachers) > 1)}: {', '.join(teachers)}." if teachers else ""
    return (
        f"{runs} run{'s' * (runs > 1)} in {len(groups)} group{'s' * (len(groups) > 1)}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}.{taught} Baseline: {baseline.label}."
    )


def _differences(rows: Sequence[Row], baseline: Group) -> Figure | None:
    found = [drawing.Interval.of(row.label, row.difference, 100.0) for row in rows if row.difference is not None]
    if not found:
        return None
    caption = (
        f"Top-1 difference from {baseline.label}, in percentage points. An interval that crosses zero is not "
        "significant; of several that do not, the corrected p-values in the table say which are."
    )
    return Figure(caption, drawing.intervals(f"Differences from {baseline.label}", found))


def _networks(groups: Sequence[Group], baseline: Group, predictor: Predictor) -> tuple[list[str], list[Section | None]]:
    """Notes about networks that cannot be loaded, and the sections that need the networks."""
    students: dict[str, Predictions] = {}
    teachers: dict[str, Predictions] = {}
    notes: list[str] = []
    for group in groups:
        logger.info(f"evaluating {group.label}")
        whose = group.label
        try:
            students[group.label] = predictor.student(group)
            whose = f"The teacher of {group.label}"
            teacher = predictor.teacher(group)
            if teacher is not None:
                teachers[group.label] = teacher
        except TekapctlError as error:
            notes.append(f"{whose} is missing from the figures of predictions: {error.problem}")
    return notes, [
        _gains(groups, baseline),
        _confusions(students),
        _correlations(students, teachers),
        _embeddings(students, teachers),
    ]


def _section(title: str, how: str, figures: Sequence[Figure], legend: str = "") -> Section | None:
    return Section(title, how, [Panel("", figures)], legend, "three") if figures else None


def _gains(groups: Sequence[Group], baseline: Group) -> Section | None:
    figures = []
    for group in groups:
        shared = [seed for seed in group.runs if seed in baseline.runs]
        own, base = _per_class(group, shared), _per_class(baseline, shared)
        same_images = group.first.spec.data.has_test_images_of(baseline.first.spec.data)
        if group is baseline or not same_images or not own or own.keys() != base.keys():
            continue
        gains = {name: 100 * (own[name] - base[name]) for name in base}
        names = sorted(gains, key=lambda name: -gains[name])
        if len(names) > _MOST_BARS:
            names = names[: _MOST_BARS // 2] + names[-_MOST_BARS // 2 :]
        drawn = drawing.bars(f"Per-class gain of {group.label}", names, [gains[name] for name in names])
        figures.append(Figure(group.label, drawn))
    how = (
        f"Per-class test accuracy minus that of {baseline.label}, averaged over the seeds that both have. "
        f"With more than {_MOST_BARS} classes, only those that changed most."
    )
    return _section("Per-class gain", how, figures)


def _per_class(group: Group, seeds: Sequence[int]) -> dict[str, float]:
    tables = [group.runs[seed].summary["evaluation"].get("per_class", {}) for seed in seeds]
    same = bool(tables) and all(table and table.keys() == tables[0].keys() for table in tables)
    return {name: statistics.mean(table[name] for table in tables) for name in tables[0]} if same else {}


def _confusions(students: dict[str, Predictions]) -> Section | None:
    figures, many = [], False
    for label, found in students.items():
        if len(found.classes) <= _MOST_CONFUSIONS:
            drawn = drawing.heat(f"Confusion of {label}", found.confusion, found.classes, most=1.0, percent=True)
            figures.append(Figure(label, drawn))
        else:
            many = True
            figures.append(Figure(label, cells=[["most confused classes", "% of images"], *_most_confused(found)]))
    how = (
        "The pairs of classes that are confused most, for each group's first run."
        if many
        else "Percentage of each class's test images (row) predicted as each class (column), per group's first run."
    )
    return _section("Confusion", how, figures)


def _most_confused(found: Predictions) -> Iterator[list[str]]:
    wrong = found.confusion.clone().fill_diagonal_(0)
    best = wrong.flatten().topk(min(_SHOWN_PAIRS, wrong.numel()))
    for fraction, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        true, predicted = divmod(place, len(found.classes))
        yield [f"{found.classes[true]} as {found.classes[predicted]}", f"{100 * fraction:.1f}"]


def _correlations(students: dict[str, Predictions], teachers: dict[str, Predictions]) -> Section | None:
    differences = {label: teachers[label].correlation - students[label].correlation for label in teachers}
    if not differences:
        return None
    most = max(float(found.abs().max()) for found in differences.values())
    figures = []
    for label, found in differences.items():
        count = len(found)
        mean = float((found.abs().sum() - found.diagonal().abs().sum()) / max(1, count * (count - 1)))
        drawn = drawing.heat(f"Class correlation, teacher minus {label}", found, students[label].classes, most=most)
        figures.append(Figure(f"{label}: mean absolute difference {mean:.4f}", drawn))
    how = (
        "Correlation of each two classes' logits over the test images, teacher minus student, as in the CRD and TeKAP "
        "papers. Paler is closer to the teacher. Blue: more correlated in the teacher; orange: less. All figures share "
        f"one scale, up to {most:.2f}. Networks without a teacher are omitted."
    )
    return _section("Class correlation", how, figures)


def _embeddings(students: dict[str, Predictions], teachers: dict[str, Predictions]) -> Section | None:
    shown: dict[str, Predictions] = {}
    for label, found in teachers.items():
        if not any(found is other for other in shown.values()):
            shown[f"teacher of {label}" if shown else "teacher"] = found
    shown |= students
    if not shown:
        return None
    names = next(iter(shown.values())).classes
    count = min(_CLASSES_SHOWN, len(names))
    chosen = [number * len(names) // count for number in range(count)]
    figures = []
    for label, found in shown.items():
        if found.classes != names:
            continue
        points, labels, explained = found.plane(_POINTS * max(1, len(names) // count))
        keep = (labels.unsqueeze(1) == labels.new_tensor(chosen)).any(1)
        drawn = drawing.scatter(f"Embeddings of {label}", points[keep], labels[keep], chosen, names)
        figures.append(Figure(f"{label}: {100 * explained:.0f} % of the variance", drawn))
    some = f" {count} of {len(names)} classes, evenly chosen." if count < len(names) else ""
    how = (
        "Test images in the plane of the first two principal components of their embeddings. Each network has its own "
        f"plane: compare how well classes separate, not where they lie.{some}"
    )
    return _section("Embeddings", how, figures, drawing.legend([names[number] for number in chosen], points=True))
