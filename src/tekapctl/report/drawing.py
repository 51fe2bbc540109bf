"""SVG drawings in the page's own colours.

Drawn here and not by matplotlib: colours follow the reader's light or dark mode, text stays selectable and readable on
a phone, and curves have tooltips.
"""

import base64
import io
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from html import escape
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.experiments.comparison.statistics import Difference

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a5195", "#555555")
"""Colours of groups and classes on paper, after Okabe and Ito's palette for colour-blind readers; `--c0` to `--c7`."""
Number = float | int
Scale = Callable[[Number], Number]
"""Maps values to coordinates."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
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


def _scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    """A linear map of a range of values to coordinates."""
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def _padded(values: Sequence[Number]) -> tuple[Number, Number]:
    """The range of values, and a little more."""
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def ticks(low: Number, high: Number, about: int = 5) -> list[Number]:
    """Round numbers within a range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _plane(series: Sequence[Line], width: int, height: int, axis: str) -> tuple[Scale, list[str]]:
    """The vertical scale of curves, and their grid with the axis's label."""
    low, high = _padded([end for line in series for point in line.points for end in (point.low, point.high)])
    y = _scale(low, high, height - 40, 10)
    parts = [_text((_LEFT + width) / 2, height - 4, escape(axis))]
    for tick in ticks(low, high):
        parts.append(_rule(_LEFT, y(tick), width - 12, y(tick), 'class="grid"'))
        parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:.4g}", anchor="end"))
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
    x = _scale(first, last, _LEFT, width - 12)
    parts += [_text(x(tick), height - 22, f"{tick:.0f}") for tick in ticks(first, last, 6) if tick == int(tick)]
    for number, (label, points) in enumerate(series):
        if any(point.low != point.high for point in points):
            back = [(x(point.at), y(point.low)) for point in reversed(points)]
            band = _places([*((x(point.at), y(point.high)) for point in points), *back])
            parts.append(f'<polygon points="{band}" fill="{_colour(number)}" opacity=".15"/>')
        if points:
            parts.append(_polyline([(x(point.at), y(point.mean)) for point in points], number, label))
    return _svg(width, height, f"{title}, {unit}, by epoch", parts)


def over_axis(title: str, axis: str, unit: str, series: Sequence[Line]) -> str:
    """Curves with error bars over a setting, on a logarithmic axis; empty if no curve has a point."""
    width, height = 720, 320
    settings = sorted({point.at for line in series for point in line.points})
    if not settings:
        return ""
    y, parts = _plane(series, width, height, f"x: {axis}, y: {unit}")
    x = _scale(math.log2(settings[0]), math.log2(settings[-1]), _LEFT + 20, width - 32)
    parts += [_text(x(math.log2(at)), height - 22, f"{at:g}") for at in settings]
    for number, (label, points) in enumerate(series):
        # Shifted sideways, so that error bars of different series do not hide each other.
        shift = 4 * (number - (len(series) - 1) / 2)
        places = [(x(math.log2(point.at)) + shift, y(point.mean)) for point in points]
        parts.append(_polyline(places, number, label))
        for (left, middle), point in zip(places, points, strict=True):
            tooltip = f"{label}, {point.at:g}: {point.mean:.2f}"
            if point.high > point.low:
                tooltip += f" ± {(point.high - point.low) / 2:.2f}"
                style = f'stroke="{_colour(number)}" stroke-width="1.2"'
                parts.append(_rule(left, y(point.low), left, y(point.high), style))
            parts.append(_dot(left, middle, 3.6, f'fill="{_colour(number)}"', tooltip))
    return _svg(width, height, title, parts)


def _colour(number: int) -> str:
    return f"var(--c{number % len(COLOURS)})"


def _stroke(number: int, width: Number) -> str:
    """A group's stroke: its colour, and a dash pattern that distinguishes groups of the same colour."""
    pattern = _DASHES[number // len(COLOURS) % len(_DASHES)]
    dash = f' stroke-dasharray="{pattern}"' if pattern else ""
    return f'stroke="{_colour(number)}" stroke-width="{width}"{dash}'


def _places(points: Sequence[tuple[Number, Number]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _polyline(points: Sequence[tuple[Number, Number]], number: int, label: str) -> str:
    line = f'<polyline points="{_places(points)}" fill="none" {_stroke(number, 1.8)}>'
    return f"{line}<title>{escape(label)}</title></polyline>"


def _rule(x1: Number, y1: Number, x2: Number, y2: Number, style: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {style}/>'


def _dot(x: Number, y: Number, radius: Number, style: str, tooltip: str) -> str:
    tip = f"<title>{escape(tooltip)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}>{tip}</circle>'


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Differences with their intervals, around zero."""
    row, left, width = 24, 190, 720
    height = row * len(rows) + 34
    values = [v for each in rows for v in (each.mean, each.low, each.high) if v is not None]
    low, high = _padded([*values, 0.0])
    x = _scale(low, high, left, width - 14)
    parts = []
    for tick in ticks(low, high, 7):
        is_zero = abs(tick) < 1e-12
        parts.append(_rule(x(tick), 4, x(tick), height - 28, 'class="zero"' if is_zero else 'class="grid"'))
        parts.append(_text(x(tick), height - 12, "0" if is_zero else f"{tick:+.3g}"))
    for number, each in enumerate(rows):
        y = 4 + row * (number + 0.5)
        parts.append(_text(left - 10, y + 4, _short(each.label, 30), "label", "end"))
        tooltip = f"{each.label}: {each.mean:+.2f}"
        if each.low is not None and each.high is not None:
            tooltip += f", {each.low:+.2f} to {each.high:+.2f}"
            parts.append(_rule(x(each.low), y, x(each.high), y, 'class="whisker"'))
        parts.append(_dot(x(each.mean), y, 4.5, 'class="dot"', tooltip))
    return _svg(width, height, title, parts)


def bars(title: str, names: Sequence[str], values: Sequence[Number]) -> str:
    """Horizontal bars around zero."""
    row, left, width = 18, 110, 380
    height = row * len(names) + 26
    most = max([abs(value) for value in values] + [1e-9])
    x = _scale(-most, most, left + 34, width - 46)
    parts = [_rule(x(0), 2, x(0), height - 20, 'class="zero"')]
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 4 + row * number
        kind = "gain" if value >= 0 else "loss"
        start, end = sorted((x(0), x(value)))
        parts.append(_text(left - 8, y + 11, _short(name, 18), "label", "end"))
        parts.append(f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{row - 5}" class="{kind}"/>')
        place, anchor = (end + 4, "start") if value >= 0 else (start - 4, "end")
        parts.append(_text(place, y + 11, f"{value:+.1f}", "tick", anchor))
    parts.append(_text(x(0), height - 6, "percentage points"))
    return _svg(width, height, title, parts)


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
        parts.append(f'<image {square} class="matrix" href="{_png(shades)}"/><rect {square} class="frame"/>')
        parts.append(_text(left - 6, top + 10, _short(names[0], 15), "tick", "end"))
        parts.append(_text(left - 6, top + side, _short(names[-1], 15), "tick", "end"))
        return _svg(int(left + side + 8), int(top + side + 16), title, parts)
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
            parts.append(_text(left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4, number, kind))
    for i, name in enumerate(names):
        parts.append(_text(left - 6, top + (i + 0.5) * cell + 4, _short(name, 15), "label", "end"))
        parts.append(
            f'<text transform="translate({left + (i + 0.5) * cell + 3:.1f} {top + side + 8:.1f}) rotate(-50)" '
            f'class="label" text-anchor="end">{_short(name, 13)}</text>'
        )
    return _svg(int(left + side + 8), int(top + side + 84), title, parts)


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
            f'<g fill="{_colour(number)}" stroke="{_colour(number)}" stroke-width="{1.2 if is_cross else 0}" '
            f'opacity=".75"><title>{escape(names[label])}</title>{"".join(dots)}</g>'
        )
    return _svg(width, height, title, parts)


def legend(names: Sequence[str], *, points: bool = False, only: Collection[str] | None = None) -> str:
    """A legend of all names, in the order of their colours, or `only` of some."""
    entries = []
    for number, name in enumerate(names):
        if only is not None and name not in only:
            continue
        if not points:
            mark = f'<line x1="0" x2="24" y1="6" y2="6" {_stroke(number, 3)}/>'
        elif number < len(COLOURS):
            mark = f'<circle cx="12" cy="6" r="4" fill="{_colour(number)}"/>'
        else:
            mark = f'<path d="M8 2l8 8m0-8l-8 8" stroke="{_colour(number)}" stroke-width="2"/>'
        entries.append(f'<li><svg width="24" height="12" aria-hidden="true">{mark}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _text(x: Number, y: Number, label: str, kind: str = "tick", anchor: str = "middle") -> str:
    """Text at a position; it must be escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{label}</text>'


def _short(text: str, most: int) -> str:
    return escape(text if len(text) <= most else text[: most - 1] + "…")


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """An SVG element."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def _png(shades: Tensor) -> str:
    """Shades from -1 to 1 as a PNG, blue above zero and red below, transparent at zero."""
    from PIL import Image

    up, down = torch.tensor([31, 111, 180]), torch.tensor([200, 80, 30])
    pixels = torch.where(shades.unsqueeze(2) >= 0, up, down)
    alpha = (255 * shades.abs()).round().unsqueeze(2)
    picture = Image.fromarray(torch.cat([pixels, alpha], 2).to(torch.uint8).numpy(), "RGBA")
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
