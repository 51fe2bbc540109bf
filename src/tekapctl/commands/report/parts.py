"""Parts of the report page, and the templates that they are rendered with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A drawing or a small table with its caption.

    Attributes:
        caption: The caption.
        drawing: An SVG drawing, whose texts are escaped.
        cells: The rows of a table instead, header first.
    """

    caption: str
    drawing: str = ""
    cells: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Panel:
    """Figures under a common heading, which may be empty."""

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: Its heading.
        how: How its figures were made and how to read them.
        panels: Its figures.
        legend: A legend for all figures, as HTML.
        layout: `three` for small figures side by side.
    """

    title: str
    how: str
    panels: Sequence[Panel]
    legend: str = ""
    layout: str = ""


def render(template: str, **values: Any) -> Markup:
    """Fill a template; texts are escaped."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tekapctl.commands.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
