"""The page's sections: training curves, teacher diversity, and figures of the networks' predictions."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tekapctl.experiments.comparison.groups import Group
from tekapctl.report import drawing
from tekapctl.report.predictions import Predictions

Metrics = dict[str, list[dict[str, Any]]]
"""The metrics of all epochs of a group's runs, by the group's label."""

_POINTS = 1000
_CLASSES_SHOWN = 10
_MOST_BARS = 30
_MOST_CONFUSIONS = 20
_SHOWN_PAIRS = 12


@dataclass(frozen=True)
class Figure:
    """An SVG drawing with its caption, or a small table in its place: rows of cells, header first."""

    caption: str
    drawing: str = ""
    cells: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Figures are grouped by a common heading, which may be empty; the layout `three` is for small figures side by side.
    """

    title: str
    how: str
    panels: Mapping[str, Sequence[Figure]]
    legend: str = ""
    layout: str = ""


CURVES = (
    ("test_top1", "Test accuracy", "top-1 (%)", 100.0),
    ("val_top1", "Validation accuracy", "top-1 (%)", 100.0),
    ("raw_top1", "Accuracy before averaging", "top-1 (%)", 100.0),
    ("train_top1", "Training accuracy", "top-1 (%), augmented images", 100.0),
    ("train_loss", "Training loss", "weighted sum of all terms", 1.0),
)
_LEVELS = {"logit": "Logit level", "feature": "Feature level", "views": "Learned views"}
_DIVERSITY = (
    ("variance", "Variance", "of a class's probability", 1.0),
    ("disagreement", "Disagreement", "with the teacher's class (%)", 100.0),
    ("ensemble_top1", "Ensemble accuracy", "top-1 (%)", 100.0),
    ("ensemble_calibration_error", "Ensemble ECE", "%", 100.0),
    ("noise_share", "Noise in the student's gradient", "fraction (%)", 100.0),
)
_LABELS = ("diagnosis_label_cosine", "Gradient alignment with the labels", "cosine", 1.0)


def training(groups: Sequence[Group]) -> Section | None:
    """Accuracy and loss curves; None if no run has any."""
    metrics = metrics_of(groups)
    figures = [found for row in CURVES if (found := _curves(metrics, *row))]
    how = (
        "Lines are means over seeds, bands span the lowest and the highest seed. Losses of different methods have "
        "different terms and weights: compare their shape, not their values."
    )
    return Section("Training", how, {"": figures}, drawing.legend(list(metrics))) if figures else None


def diversity(groups: Sequence[Group]) -> Section | None:
    """Diagnostics of augmented teachers; None if no run has any. Needs all groups, so that each keeps its colour."""
    metrics = metrics_of(groups)
    panels: dict[str, list[Figure]] = {}
    for level, title in _LEVELS.items():
        panels[title] = []
        for field, name, unit, scale in _DIVERSITY:
            teacher = f"diagnosis_teacher_{field.removeprefix('ensemble_')}"
            reference = _range(metrics, teacher, scale) if field.startswith("ensemble_") else ""
            if found := _curves(metrics, f"diagnosis_{level}_{field}", name, unit, scale, reference):
                panels[title].append(found)
    if labels := _curves(metrics, *_LABELS):
        panels["Total loss"] = [labels]
    panels = {title: figures for title, figures in panels.items() if figures}
    if not panels:
        return None
    how = (
        "Runs with diagnostics enabled, after each epoch: predictions of the augmented teachers on at most 2,000 test "
        "images, and the fraction of the student's gradient that is due to the noise of a step, "
        "‖g - g₀‖ / ‖g‖, where g₀ is the gradient without noise. The ensemble is the teacher with its augmented "
        "teachers, weighted as in the loss."
    )
    shown = {
        label for label, epochs in metrics.items() if any(field.startswith("diagnosis_") for e in epochs for field in e)
    }
    return Section("Teacher diversity", how, panels, drawing.legend(list(metrics), only=shown))


def metrics_of(groups: Sequence[Group]) -> Metrics:
    """The metrics of all runs, by group."""
    return {group.label: [entry for one in group.runs.values() for entry in one.run.metrics()] for group in groups}


def _curves(metrics: Metrics, field: str, title: str, unit: str, scale: float, more: str = "") -> Figure | None:
    """A figure with a line for each group that has a field; None if no group has."""
    lines = [curve(label, epochs, field, scale) for label, epochs in metrics.items()]
    drawn = drawing.lines(title, unit, lines)
    return Figure(f"{title}: {unit}{more}", drawn) if drawn else None


def curve(label: str, entries: Sequence[dict[str, Any]], field: str, scale: float) -> drawing.Line:
    """A metric of a group over epochs."""
    by_epoch: dict[int, list[float]] = {}
    for entry in entries:
        if "epoch" in entry and field in entry:
            by_epoch.setdefault(int(entry["epoch"]), []).append(scale * float(entry[field]))
    points = [drawing.Point(epoch, statistics.mean(v), min(v), max(v)) for epoch, v in sorted(by_epoch.items())]
    return drawing.Line(label, points)


def _range(metrics: Metrics, field: str, scale: float) -> str:
    """The range of the unmodified teachers' values, in words."""
    found = [scale * float(entry[field]) for epochs in metrics.values() for entry in epochs if field in entry]
    if not found:
        return ""
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return f" (teacher: {low})" if low == high else f" (teachers: {low} to {high})"


def _section(title: str, how: str, figures: Sequence[Figure], legend: str = "") -> Section | None:
    return Section(title, how, {"": figures}, legend, "three") if figures else None


def gains(groups: Sequence[Group], baseline: Group) -> Section | None:
    """Per-class differences from the baseline; None without any."""
    figures = []
    for group in groups:
        shared = [seed for seed in group.runs if seed in baseline.runs]
        own, base = _per_class(group, shared), _per_class(baseline, shared)
        same_images = group.first.spec.data.has_test_images_of(baseline.first.spec.data)
        if group is baseline or not same_images or not own or own.keys() != base.keys():
            continue
        changes = {name: 100 * (own[name] - base[name]) for name in base}
        names = sorted(changes, key=lambda name: -changes[name])
        if len(names) > _MOST_BARS:
            names = names[: _MOST_BARS // 2] + names[-_MOST_BARS // 2 :]
        drawn = drawing.bars(f"Per-class gain of {group.label}", names, [changes[name] for name in names])
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


def confusions(students: dict[str, Predictions]) -> Section | None:
    """Confusion matrices of networks, by group; None without any."""
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


def correlations(students: dict[str, Predictions], teachers: dict[str, Predictions]) -> Section | None:
    """Class correlations of teachers minus those of their students, by group; None without any."""
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


def embeddings(students: dict[str, Predictions], teachers: dict[str, Predictions]) -> Section | None:
    """Embeddings of networks, by group; None without any."""
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
