"""Means with their intervals along a setting, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tekapctl.report import drawing


@dataclass(frozen=True)
class Point:
    """A mean on the chart.

    Attributes:
        at: The setting.
        mean: In the axis's unit.
        half: Half of its interval; None where it has none.
    """

    at: float | int
    mean: float
    half: float | None


def along(title: str, axis: str, unit: str, series: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """A line for each series, with whiskers, on an axis on which each doubling is one step.

    Args:
        title: What it is, for those who do not see it.
        axis: What the horizontal axis shows.
        unit: What the vertical one does.
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
        # Series side by side: whiskers at one place would hide each other.
        return left + 20 + (width - left - 52) * share + 4 * (number - (len(series) - 1) / 2)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / (high - low))

    parts = [drawing.grid(y(tick), left, width - 12, f"{tick:.4g}") for tick in drawing.ticks(low, high)]
    middle = (len(series) - 1) / 2
    for place in places:
        parts.append(drawing.text(x(place, 0) + 4 * middle, height - 26, f"{place:g}"))
    parts.append(drawing.text((left + width) / 2, height - 6, f"{escape(axis)}; {escape(unit)} upwards"))
    for number, (name, each) in enumerate(series):
        colour = drawing.colour(number)
        ordered = sorted(each, key=lambda point: point.at)
        line = " ".join(f"{x(point.at, number):.1f},{y(point.mean):.1f}" for point in ordered)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{drawing.dash(number)}/>'
        )
        for point in ordered:
            told = f"{name}, {point.at:g}: {point.mean:.2f}"
            where = x(point.at, number)
            if point.half is not None:
                told += f" ± {point.half:.2f}"
                lower, upper = y(point.mean - point.half), y(point.mean + point.half)
                parts.append(
                    f'<line x1="{where:.1f}" x2="{where:.1f}" y1="{lower:.1f}" y2="{upper:.1f}" '
                    f'stroke="{colour}" stroke-width="1.2"/>'
                )
            parts.append(
                f'<circle cx="{where:.1f}" cy="{y(point.mean):.1f}" r="3.6" fill="{colour}">'
                f"<title>{escape(told)}</title></circle>"
            )
    return drawing.svg(width, height, title, parts)
