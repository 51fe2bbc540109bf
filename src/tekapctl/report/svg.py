"""The elements of SVG drawings: scales, lines, dots, text, and the colours of the page."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape

import torch
from torch import Tensor

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a5195", "#555555")
"""Colours of groups and classes on paper, after Okabe and Ito's palette for colour-blind readers; `--c0` to `--c7`."""
Number = float | int
Scale = Callable[[Number], Number]
"""Maps values to coordinates."""
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    """A linear map of a range of values to coordinates."""
    return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)


def padded(values: Sequence[Number]) -> tuple[Number, Number]:
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


def colour(number: int) -> str:
    """The page's colour of a group."""
    return f"var(--c{number % len(COLOURS)})"


def stroke(number: int, width: Number) -> str:
    """A group's stroke: its colour, and a dash pattern that distinguishes groups of the same colour."""
    pattern = _DASHES[number // len(COLOURS) % len(_DASHES)]
    dash = f' stroke-dasharray="{pattern}"' if pattern else ""
    return f'stroke="{colour(number)}" stroke-width="{width}"{dash}'


def places(points: Sequence[tuple[Number, Number]]) -> str:
    """Coordinates, as in the `points` of a line."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def polyline(points: Sequence[tuple[Number, Number]], number: int, label: str) -> str:
    """A group's curve, with its label as a tooltip."""
    line = f'<polyline points="{places(points)}" fill="none" {stroke(number, 1.8)}>'
    return f"{line}<title>{escape(label)}</title></polyline>"


def rule(x1: Number, y1: Number, x2: Number, y2: Number, style: str) -> str:
    """A straight line with attributes `style`."""
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {style}/>'


def dot(x: Number, y: Number, radius: Number, style: str, tooltip: str) -> str:
    """A circle with a tooltip."""
    tip = f"<title>{escape(tooltip)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}>{tip}</circle>'


def text(x: Number, y: Number, label: str, kind: str = "tick", anchor: str = "middle") -> str:
    """Text at a position; it must be escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{label}</text>'


def short(text: str, most: int) -> str:
    """A text cut to a length, escaped."""
    return escape(text if len(text) <= most else text[: most - 1] + "…")


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """An SVG element."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def png(shades: Tensor) -> str:
    """Shades from -1 to 1 as a PNG, blue above zero and red below, transparent at zero."""
    from PIL import Image

    up, down = torch.tensor([31, 111, 180]), torch.tensor([200, 80, 30])
    pixels = torch.where(shades.unsqueeze(2) >= 0, up, down)
    alpha = (255 * shades.abs()).round().unsqueeze(2)
    picture = Image.fromarray(torch.cat([pixels, alpha], 2).to(torch.uint8).numpy(), "RGBA")
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
