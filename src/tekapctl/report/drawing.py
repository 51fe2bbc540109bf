"""SVG drawings in the page's own colours.

Drawn here and not by matplotlib: colours follow the reader's light or dark mode, text stays selectable and readable on
a phone, and curves have tooltips.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from html import escape
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.experiments.comparison.statistics import Difference
from tekapctl.report.svg import (
    COLOURS,
    Number,
    Scale,
    colour,
    dot,
    padded,
    places,
    png,
    polyline,
    rule,
    scale,
    short,
    stroke,
    svg,
    text,
    ticks,
)

_LEFT = 54
"""Where the plane of a chart begins, to the right of the numbers of its grid."""
_MOST_CELLS_DRAWN = 20
_MOST_CELLS_WRITTEN = 12


class Point(NamedTuple):
    """A place on a curve: an epoch or a setting, a mean over seeds, and the ends of a band or error bar around it."""

    at: Number
    mean: Number
    low: Number
    high: Number


class Line(NamedTuple):
    """A group's curve; points are ascending."""

    label: str
    points: Sequence[Point]

    def finite(self) -> "Line":
        """The curve without points that are not finite."""
        return Line(self.label, [point for point in self.points if all(map(math.isfinite, point))])


class Interval(NamedTuple):
    """A difference with its interval, in the axis's unit; low and high are None without an interval."""

    label: str
    mean: Number
    low: Number | None
    high: Number | None

    @classmethod
    def of(cls, label: str, difference: Difference, scale: Number) -> "Interval":
        """A difference, scaled to the axis's unit."""
        ends = (None if end is None else scale * end for end in (difference.ci_low, difference.ci_high))
        return cls(label, scale * difference.mean, *ends)


def _plane(series: Sequence[Line], width: int, height: int, axis: str) -> tuple[Scale, list[str]]:
    """The vertical scale of curves, and their grid with the axis's label."""
    low, high = padded([end for line in series for point in line.points for end in (point.low, point.high)])
    y = scale(low, high, height - 40, 10)
    parts = [text((_LEFT + width) / 2, height - 4, escape(axis))]
    for tick in ticks(low, high):
        parts.append(rule(_LEFT, y(tick), width - 12, y(tick), 'class="grid"'))
        parts.append(text(_LEFT - 6, y(tick) + 4, f"{tick:.4g}", anchor="end"))
    return y, parts


def lines(title: str, unit: str, series: Sequence[Line]) -> str:
    """Curves over epochs with bands over seeds; empty if no curve has a point.

    Colours follow the position in `series`, so that a curve without points does not change the others' colours.
    """
    width, height = 520, 260
    series = [line.finite() for line in series]
    epochs = [point.at for line in series for point in line.points]
    if not epochs:
        return ""
    y, parts = _plane(series, width, height, "epoch")
    first, last = float(min(epochs)), float(max(epochs))
    x = scale(first, last, _LEFT, width - 12)
    parts += [text(x(tick), height - 22, f"{tick:.0f}") for tick in ticks(first, last, 6) if tick == int(tick)]
    for number, (label, points) in enumerate(series):
        if any(point.low != point.high for point in points):
            back = [(x(point.at), y(point.low)) for point in reversed(points)]
            band = places([*((x(point.at), y(point.high)) for point in points), *back])
            parts.append(f'<polygon points="{band}" fill="{colour(number)}" opacity=".15"/>')
        if points:
            parts.append(polyline([(x(point.at), y(point.mean)) for point in points], number, label))
    return svg(width, height, f"{title}, {unit}, by epoch", parts)


def over_axis(title: str, axis: str, unit: str, series: Sequence[Line]) -> str:
    """Curves with error bars over a setting, on a logarithmic axis; empty if no curve has a point."""
    width, height = 720, 320
    settings = sorted({point.at for line in series for point in line.points})
    if not settings:
        return ""
    y, parts = _plane(series, width, height, f"x: {axis}, y: {unit}")
    x = scale(math.log2(settings[0]), math.log2(settings[-1]), _LEFT + 20, width - 32)
    parts += [text(x(math.log2(at)), height - 22, f"{at:g}") for at in settings]
    for number, (label, points) in enumerate(series):
        # Shifted sideways, so that error bars of different series do not hide each other.
        shift = 4 * (number - (len(series) - 1) / 2)
        places = [(x(math.log2(point.at)) + shift, y(point.mean)) for point in points]
        parts.append(polyline(places, number, label))
        for (left, middle), point in zip(places, points, strict=True):
            tooltip = f"{label}, {point.at:g}: {point.mean:.2f}"
            if point.high > point.low:
                tooltip += f" ± {(point.high - point.low) / 2:.2f}"
                style = f'stroke="{colour(number)}" stroke-width="1.2"'
                parts.append(rule(left, y(point.low), left, y(point.high), style))
            parts.append(dot(left, middle, 3.6, f'fill="{colour(number)}"', tooltip))
    return svg(width, height, title, parts)


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Differences with their intervals, around zero."""
    row, left, width = 24, 190, 720
    height = row * len(rows) + 34
    values = [v for each in rows for v in (each.mean, each.low, each.high) if v is not None]
    low, high = padded([*values, 0.0])
    x = scale(low, high, left, width - 14)
    parts = []
    for tick in ticks(low, high, 7):
        is_zero = abs(tick) < 1e-12
        parts.append(rule(x(tick), 4, x(tick), height - 28, 'class="zero"' if is_zero else 'class="grid"'))
        parts.append(text(x(tick), height - 12, "0" if is_zero else f"{tick:+.3g}"))
    for number, each in enumerate(rows):
        y = 4 + row * (number + 0.5)
        parts.append(text(left - 10, y + 4, short(each.label, 30), "label", "end"))
        tooltip = f"{each.label}: {each.mean:+.2f}"
        if each.low is not None and each.high is not None:
            tooltip += f", {each.low:+.2f} to {each.high:+.2f}"
            parts.append(rule(x(each.low), y, x(each.high), y, 'class="whisker"'))
        parts.append(dot(x(each.mean), y, 4.5, 'class="dot"', tooltip))
    return svg(width, height, title, parts)


def bars(title: str, names: Sequence[str], values: Sequence[Number]) -> str:
    """Horizontal bars around zero."""
    row, left, width = 18, 110, 380
    height = row * len(names) + 26
    most = max([abs(value) for value in values] + [1e-9])
    x = scale(-most, most, left + 34, width - 46)
    parts = [rule(x(0), 2, x(0), height - 20, 'class="zero"')]
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 4 + row * number
        kind = "gain" if value >= 0 else "loss"
        start, end = sorted((x(0), x(value)))
        parts.append(text(left - 8, y + 11, short(name, 18), "label", "end"))
        parts.append(f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{row - 5}" class="{kind}"/>')
        place, anchor = (end + 4, "start") if value >= 0 else (start - 4, "end")
        parts.append(text(place, y + 11, f"{value:+.1f}", "tick", anchor))
    parts.append(text(x(0), height - 6, "percentage points"))
    return svg(width, height, title, parts)


def heat(
    title: str, values: Float[Tensor, "rows columns"], names: Sequence[str], *, most: Number, percent: bool = False
) -> str:
    """A matrix as shades: one colour above zero, another below; the strongest shade has the absolute value `most`."""
    count = len(names)
    side, left, top = 340.0, 96, 8
    cell = side / count
    shades = (values / most if most else values * 0).clamp(-1, 1)
    parts = []
    if count > _MOST_CELLS_DRAWN:
        square = f'x="{left}" y="{top}" width="{side}" height="{side}"'
        parts.append(f'<image {square} class="matrix" href="{png(shades)}"/><rect {square} class="frame"/>')
        parts.append(text(left - 6, top + 10, short(names[0], 15), "tick", "end"))
        parts.append(text(left - 6, top + side, short(names[-1], 15), "tick", "end"))
        return svg(int(left + side + 8), int(top + side + 16), title, parts)
    for i, j in itertools.product(range(count), repeat=2):
        value, shade = float(values[i, j]), float(shades[i, j])
        number = f"{100 * value:.0f}" if percent else f"{value:+.2f}"
        parts.append(
            f'<rect x="{left + j * cell:.1f}" y="{top + i * cell:.1f}" width="{cell - 0.8:.1f}" '
            f'height="{cell - 0.8:.1f}" class="{"up" if shade >= 0 else "down"}" fill-opacity="{abs(shade):.3f}">'
            f"<title>{escape(names[i])}, {escape(names[j])}: {number}</title></rect>"
        )
        if count <= _MOST_CELLS_WRITTEN and percent and abs(value) >= 0.005:
            kind = "cell strong" if abs(shade) > 0.55 else "cell"
            parts.append(text(left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4, number, kind))
    for i, name in enumerate(names):
        parts.append(text(left - 6, top + (i + 0.5) * cell + 4, short(name, 15), "label", "end"))
        parts.append(
            f'<text transform="translate({left + (i + 0.5) * cell + 3:.1f} {top + side + 8:.1f}) rotate(-50)" '
            f'class="label" text-anchor="end">{short(name, 13)}</text>'
        )
    return svg(int(left + side + 8), int(top + side + 84), title, parts)


def scatter(
    title: str, points: Float[Tensor, "n 2"], labels: Int64[Tensor, " n"], shown: Sequence[int], names: Sequence[str]
) -> str:
    """A scatter plot, with the same unit in both directions and a colour for each shown class."""
    width, height = 380, 320
    low, high = points.amin(0), points.amax(0)
    extent = (high - low).clamp(min=1e-9)
    scale = min((width - 24) / float(extent[0]), (height - 24) / float(extent[1]))
    places = torch.tensor([width / 2, height / 2]) + scale * (points - (low + high) / 2) * torch.tensor([1, -1])
    parts = []
    for number, label in enumerate(shown):
        is_cross = number >= len(COLOURS)
        dots = [
            f'<path d="M{x - 2.4:.1f} {y - 2.4:.1f}l4.8 4.8m0-4.8l-4.8 4.8"/>'
            if is_cross
            else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.3"/>'
            for x, y in places[labels == label].tolist()
        ]
        parts.append(
            f'<g fill="{colour(number)}" stroke="{colour(number)}" stroke-width="{1.2 if is_cross else 0}" '
            f'opacity=".75"><title>{escape(names[label])}</title>{"".join(dots)}</g>'
        )
    return svg(width, height, title, parts)


def legend(names: Sequence[str], *, points: bool = False, only: Collection[str] | None = None) -> str:
    """A legend of all names, in the order of their colours, or `only` of some."""
    entries = []
    for number, name in enumerate(names):
        if only is not None and name not in only:
            continue
        if not points:
            mark = f'<line x1="0" x2="24" y1="6" y2="6" {stroke(number, 3)}/>'
        elif number < len(COLOURS):
            mark = f'<circle cx="12" cy="6" r="4" fill="{colour(number)}"/>'
        else:
            mark = f'<path d="M8 2l8 8m0-8l-8 8" stroke="{colour(number)}" stroke-width="2"/>'
        entries.append(f'<li><svg width="24" height="12" aria-hidden="true">{mark}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'
