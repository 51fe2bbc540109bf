"""Charts of training curves, teacher diversity, and means over a setting."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tekapctl.commands.report import drawing
from tekapctl.commands.report.parts import Figure, Panel, Section
from tekapctl.experiments.comparison.groups import Group


@dataclass(frozen=True)
class Point:
    """A mean on the chart.

    Attributes:
        at: The setting.
        mean: In the axis's unit.
        half: Half-width of its interval; None without one.
    """

    at: float | int
    mean: float
    half: float | None


def over_axis(title: str, axis: str, unit: str, series: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """A line with error bars for each series, on a logarithmic axis.

    Args:
        title: Text alternative.
        axis: Label of the horizontal axis.
        unit: Label of the vertical axis.
        series: Names and points.
    """
    width, height, left, top, bottom = 720, 320, 56, 12, 46
    points = [point for _, each in series for point in each]
    places = sorted({point.at for point in points})
    if not places:
        return ""
    ends = [point.mean + sign * (point.half or 0.0) for point in points for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    pad = (high - low) * 0.06 or 1.0
    low, high = low - pad, high + pad

    first, last = math.log2(places[0]), math.log2(places[-1])

    def x(at: float | int, number: int) -> float:
        share = (math.log2(at) - first) / (last - first) if last > first else 0.5
        # Shifted sideways, so that error bars of different series do not hide each other.
        return left + 20 + (width - left - 52) * share + 4 * (number - (len(series) - 1) / 2)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [drawing.grid(y(tick), left, width - 12, f"{tick:.4g}") for tick in drawing.ticks(low, high)]
    middle = (len(series) - 1) / 2
    for place in places:
        parts.append(drawing.text(x(place, 0) + 4 * middle, height - 26, f"{place:g}"))
    parts.append(drawing.text((left + width) / 2, height - 6, f"x: {escape(axis)}, y: {escape(unit)}"))
    for number, (name, each) in enumerate(series):
        colour = drawing.colour(number)
        ordered = sorted(each, key=lambda point: point.at)
        line = " ".join(f"{x(point.at, number):.1f},{y(point.mean):.1f}" for point in ordered)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{drawing.dash(number)}/>'
        )
        for point in ordered:
            tooltip = f"{name}, {point.at:g}: {point.mean:.2f}"
            where = x(point.at, number)
            if point.half is not None:
                tooltip += f" ± {point.half:.2f}"
                lower, upper = y(point.mean - point.half), y(point.mean + point.half)
                parts.append(
                    f'<line x1="{where:.1f}" x2="{where:.1f}" y1="{lower:.1f}" y2="{upper:.1f}" '
                    f'stroke="{colour}" stroke-width="1.2"/>'
                )
            parts.append(
                f'<circle cx="{where:.1f}" cy="{y(point.mean):.1f}" r="3.6" fill="{colour}">'
                f"<title>{escape(tooltip)}</title></circle>"
            )
    return drawing.svg(width, height, title, parts)


Metrics = dict[str, list[dict[str, Any]]]
"""The metrics of all epochs of a group's runs, by the group's label."""

CURVES = (
    ("test_top1", "Test accuracy", "top-1 (%)", 100.0),
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
    return Section("Training", how, [Panel("", figures)], drawing.legend(list(metrics))) if figures else None


def diversity(groups: Sequence[Group]) -> Section | None:
    """Diagnostics of augmented teachers; None if no run has any.

    Args:
        groups: All groups, so that each keeps its colour.
    """
    metrics, panels = metrics_of(groups), []
    for level, title in _LEVELS.items():
        figures = []
        for field, name, unit, scale in _DIVERSITY:
            teacher = f"diagnosis_teacher_{field.removeprefix('ensemble_')}"
            reference = _range(metrics, teacher, scale) if field.startswith("ensemble_") else ""
            figures.append(_curves(metrics, f"diagnosis_{level}_{field}", name, unit, scale, reference))
        panels.append(Panel(title, [each for each in figures if each]))
    labels = _curves(metrics, *_LABELS)
    panels.append(Panel("Total loss", [labels] if labels else []))
    panels = [panel for panel in panels if panel.figures]
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
    epochs = sorted(by_epoch)
    mean, low, high = ([of(by_epoch[epoch]) for epoch in epochs] for of in (statistics.mean, min, max))
    return drawing.Line(label, epochs, mean, low, high)


def _range(metrics: Metrics, field: str, scale: float) -> str:
    """The range of the unmodified teachers' values, in words."""
    found = [scale * float(entry[field]) for epochs in metrics.values() for entry in epochs if field in entry]
    if not found:
        return ""
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return f" (teacher: {low})" if low == high else f" (teachers: {low} to {high})"
