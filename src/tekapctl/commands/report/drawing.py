"""SVG drawings in the page's own colours.

Drawn here and not by matplotlib: colours follow the reader's light or dark mode, text stays selectable and readable on
a phone, and curves have tooltips.
"""

import base64
import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.experiments.comparison.statistics import Difference

_MOST_CELLS_DRAWN = 20
_MOST_CELLS_WRITTEN = 12
COLOURS = 8
"""How many colours of groups and classes the page has, `--c0` to `--c7`."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Line:
    """A group's curve over epochs.

    Attributes:
        label: The group.
        epochs: Epochs, from 1.
        mean: Mean over seeds.
        low: Minimum over seeds.
        high: Maximum over seeds.
    """

    label: str
    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def finite(self) -> "Line":
        """The curve without epochs in which a value is not finite."""
        table = zip(self.epochs, self.mean, self.low, self.high, strict=True)
        kept = [row for row in table if all(map(math.isfinite, row))]
        epochs, mean, low, high = zip(*kept, strict=True) if kept else ((), (), (), ())
        return Line(self.label, epochs, mean, low, high)


@dataclass(frozen=True)
class Interval:
    """A difference with its interval, in the axis's unit; low and high are None without an interval."""

    label: str
    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, label: str, difference: Difference, scale: float) -> "Interval":
        """A difference, scaled to the axis's unit."""
        ends = (None if end is None else scale * end for end in (difference.ci_low, difference.ci_high))
        return cls(label, scale * difference.mean, *ends)


def colour(number: int) -> str:
    """The CSS colour of a group or class."""
    return f"var(--c{number % COLOURS})"


def dash(number: int) -> str:
    """A dash pattern that distinguishes groups of the same colour."""
    pattern = _DASHES[number // COLOURS % len(_DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within a range."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def lines(title: str, unit: str, series: Sequence[Line]) -> str:
    """Curves over epochs with bands over seeds; empty if no curve has a point.

    Colours follow the position in `series`, so that a curve without points does not change the others' colours.
    """
    width, height, left, top, bottom = 520, 260, 52, 10, 34
    series = [line.finite() for line in series]
    values = [value for line in series for part in (line.low, line.high) for value in part]
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    first, last = (most(epoch for line in series for epoch in line.epochs) for most in (min, max))

    def x(epoch: float | int) -> float:
        return left + (width - left - 12) * ((epoch - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [grid(y(t), left, width - 12, _number(t)) for t in ticks(low, high)]
    for tick in ticks(float(first), float(last), 6):
        if tick == int(tick):
            parts.append(text(x(tick), height - 16, f"{tick:.0f}"))
    parts.append(text((left + width) / 2, height - 2, "epoch"))
    for number, line in enumerate(series):
        if not line.epochs:
            continue
        if any(a != b for a, b in zip(line.low, line.high, strict=True)):
            there = [f"{x(e):.1f},{y(v):.1f}" for e, v in zip(line.epochs, line.high, strict=True)]
            back = [f"{x(e):.1f},{y(v):.1f}" for e, v in zip(line.epochs, line.low, strict=True)]
            band = " ".join([*there, *reversed(back)])
            parts.append(f'<polygon points="{band}" fill="{colour(number)}" opacity=".15"/>')
        points = " ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in zip(line.epochs, line.mean, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(number)}" stroke-width="1.8"{dash(number)}>'
            f"<title>{escape(line.label)}</title></polyline>"
        )
    return svg(width, height, f"{title}, {unit}, by epoch", parts)


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Differences with their intervals, around zero."""
    row, left, width = 24, 190, 720
    height = row * len(rows) + 34
    values = [v for each in rows for v in (each.mean, each.low, each.high) if v is not None] + [0.0]
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return left + (width - left - 14) * (value - low) / (high - low)

    parts = []
    for tick in ticks(low, high, 7):
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 28}" class="{kind}"/>')
        parts.append(text(x(tick), height - 12, _signed(tick)))
    for number, each in enumerate(rows):
        y = 4 + row * (number + 0.5)
        parts.append(text(left - 10, y + 4, _short(each.label, 30), "label", "end"))
        tooltip = f"{each.label}: {each.mean:+.2f}"
        if each.low is not None and each.high is not None:
            tooltip += f", {each.low:+.2f} to {each.high:+.2f}"
            parts.append(f'<line x1="{x(each.low):.1f}" x2="{x(each.high):.1f}" y1="{y}" y2="{y}" class="whisker"/>')
        tip = f"<title>{escape(tooltip)}</title>"
        parts.append(f'<circle cx="{x(each.mean):.1f}" cy="{y}" r="4.5" class="dot">{tip}</circle>')
    return svg(width, height, title, parts)


def bars(title: str, names: Sequence[str], values: Sequence[float]) -> str:
    """Horizontal bars around zero."""
    row, left, width = 18, 110, 380
    height = row * len(names) + 26
    most = max([abs(value) for value in values] + [1e-9])
    middle = left + (width - left - 40) / 2 + 14

    def x(value: float) -> float:
        return middle + (width - left - 80) / 2 * value / most

    parts = [f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="2" y2="{height - 20}" class="zero"/>']
    for number, (name, value) in enumerate(zip(names, values, strict=True)):
        y = 4 + row * number
        kind = "gain" if value >= 0 else "loss"
        start, end = sorted((middle, x(value)))
        parts.append(text(left - 8, y + 11, _short(name, 18), "label", "end"))
        parts.append(f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="{row - 5}" class="{kind}"/>')
        place, anchor = (end + 4, "start") if value >= 0 else (start - 4, "end")
        parts.append(text(place, y + 11, f"{value:+.1f}", "tick", anchor))
    parts.append(text(middle, height - 6, "percentage points"))
    return svg(width, height, title, parts)


def heat(
    title: str, values: Float[Tensor, "rows columns"], names: Sequence[str], *, most: float, percent: bool = False
) -> str:
    """A matrix as shades: one colour above zero, another below.

    Args:
        title: Text alternative.
        values: The matrix.
        names: Names of rows and columns.
        most: Absolute value of the strongest shade.
        percent: Whether to write cells as percentages.
    """
    count = len(names)
    side, left, top = 340.0, 96, 8
    cell = side / count
    shades = (values / most if most else values * 0).clamp(-1, 1)
    parts = []
    if count <= _MOST_CELLS_DRAWN:
        for i, j in _places(count):
            shade = float(shades[i, j])
            number = f"{100 * float(values[i, j]):.0f}" if percent else f"{float(values[i, j]):+.2f}"
            kind = "up" if shade >= 0 else "down"
            parts.append(
                f'<rect x="{left + j * cell:.1f}" y="{top + i * cell:.1f}" width="{cell - 0.8:.1f}" '
                f'height="{cell - 0.8:.1f}" class="{kind}" fill-opacity="{abs(shade):.3f}">'
                f"<title>{escape(names[i])}, {escape(names[j])}: {number}</title></rect>"
            )
            if count <= _MOST_CELLS_WRITTEN and percent and abs(float(values[i, j])) >= 0.005:
                kind = "cell strong" if abs(shade) > 0.55 else "cell"
                parts.append(text(left + (j + 0.5) * cell, top + (i + 0.5) * cell + 4, number, kind))
        for i, name in enumerate(names):
            y = top + (i + 0.5) * cell + 4
            parts.append(text(left - 6, y, _short(name, 15), "label", "end"))
            x = left + (i + 0.5) * cell
            parts.append(
                f'<text transform="translate({x + 3:.1f} {top + side + 8:.1f}) rotate(-50)" class="label" '
                f'text-anchor="end">{_short(name, 13)}</text>'
            )
        return svg(int(left + side + 8), int(top + side + 84), title, parts)
    parts.append(f'<image x="{left}" y="{top}" width="{side}" height="{side}" class="matrix" href="{_png(shades)}"/>')
    parts.append(f'<rect x="{left}" y="{top}" width="{side}" height="{side}" class="frame"/>')
    parts.append(text(left - 6, top + 10, _short(names[0], 15), "tick", "end"))
    parts.append(text(left - 6, top + side, _short(names[-1], 15), "tick", "end"))
    return svg(int(left + side + 8), int(top + side + 16), title, parts)


def scatter(
    title: str, points: Float[Tensor, "n 2"], labels: Int64[Tensor, " n"], shown: Sequence[int], names: Sequence[str]
) -> str:
    """A scatter plot with a colour for each class.

    Args:
        title: Text alternative.
        points: Coordinates, with the same unit in both directions.
        labels: Class numbers.
        shown: The classes to show.
        names: Names of all classes.
    """
    width, height = 380, 320
    low, high = points.amin(0), points.amax(0)
    wide, tall = (max(float(extent), 1e-9) for extent in high - low)
    scale = min((width - 24) / wide, (height - 24) / tall)
    middle = (low + high) / 2
    parts = []
    for number, label in enumerate(shown):
        form = number // COLOURS
        dots = []
        for point in points[labels == label]:
            x = width / 2 + scale * float(point[0] - middle[0])
            y = height / 2 - scale * float(point[1] - middle[1])
            dots.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.3"/>'
                if not form
                else f'<path d="M{x - 2.4:.1f} {y - 2.4:.1f}l4.8 4.8m0-4.8l-4.8 4.8"/>'
            )
        parts.append(
            f'<g fill="{colour(number)}" stroke="{colour(number)}" stroke-width="{1.2 if form else 0}" opacity=".75">'
            f"<title>{escape(names[label])}</title>{''.join(dots)}</g>"
        )
    return svg(width, height, title, parts)


def legend(names: Sequence[str], *, points: bool = False, only: Collection[str] | None = None) -> str:
    """A legend.

    Args:
        names: Names in the order of their colours.
        points: Whether the colours are of points instead of lines.
        only: Names to show; None for all.
    """
    entries = []
    for number, name in enumerate(names):
        if only is not None and name not in only:
            continue
        if points:
            mark = (
                f'<circle cx="12" cy="6" r="4" fill="{colour(number)}"/>'
                if number < COLOURS
                else f'<path d="M8 2l8 8m0-8l-8 8" stroke="{colour(number)}" stroke-width="2"/>'
            )
        else:
            mark = f'<line x1="0" x2="24" y1="6" y2="6" stroke="{colour(number)}" stroke-width="3"{dash(number)}/>'
        entries.append(f'<li><svg width="24" height="12" aria-hidden="true">{mark}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _places(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(count))


def grid(y: float | int, left: float | int, right: float | int, label: str) -> str:
    """A horizontal grid line with its value."""
    return (
        f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f"{text(left - 6, y + 4, label, anchor='end')}"
    )


def text(x: float | int, y: float | int, label: str, kind: str = "tick", anchor: str = "middle") -> str:
    """Text at a position; it must be escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{label}</text>'


def _number(value: float) -> str:
    return f"{value:.4g}"


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}"


def _short(text: str, most: int) -> str:
    return escape(text if len(text) <= most else text[: most - 1] + "…")


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
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
