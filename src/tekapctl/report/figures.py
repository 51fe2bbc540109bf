"""Figures for papers, as PDF and SVG: accuracies, differences from the baseline, and training curves."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tekapctl.errors import require
from tekapctl.experiments.comparison.groups import Group
from tekapctl.experiments.comparison.table import Row
from tekapctl.report.sections import CURVES, curve, metrics_of
from tekapctl.report.svg import COLOURS
from tekapctl.store.atomic import atomic_write
from tekapctl.store.home import Home, output_file

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: a column of a two-column paper, and the text width."""
NAMES = ("accuracy", "differences", "training")
_DASHES = ("-", "--", ":", "-.")
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # TrueType: most venues reject matplotlib's default Type 3 fonts
    "svg.fonttype": "none",
    "svg.hashsalt": "tekapctl",
    "text.parse_math": False,  # labels are the user's
}


def figure_files(folder: Path, home: Home, *, force: bool) -> list[Path]:
    """The files that `write_figures` writes to a folder: each figure as PDF and SVG.

    Raises:
        UsageError: matplotlib is not installed, or a file exists and must not be replaced.
    """
    require("figures", "matplotlib")
    return [output_file(folder / f"{name}.{kind}", home, force=force) for name in NAMES for kind in ("pdf", "svg")]


def write_figures(groups: Sequence[Group], rows: Sequence[Row], baseline: Group, files: Sequence[Path]) -> list[Path]:
    """Write the figures to the files of `figure_files`, except those without data; returns the written files."""
    matplotlib = require("figures", "matplotlib")
    found = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of scripts that the font lacks
        figures = (_accuracy(groups, rows), _differences(rows, baseline), _training(groups))
        for figure, pair in zip(figures, zip(files[::2], files[1::2], strict=True), strict=True):
            for file, kind, date in zip(pair, ("pdf", "svg"), ("CreationDate", "Date"), strict=True):
                if figure is None:
                    continue
                written = io.BytesIO()
                figure.savefig(written, format=kind, metadata={date: None})
                atomic_write(file, written.getvalue())
                found.append(file)
    return found


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    figure = require("figures", "matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _rows(labels: Sequence[str]) -> tuple[Any, Any]:
    """Axes with a row for each label, from the top."""
    figure, (axes,) = _axes(COLUMN, 0.55 + 0.3 * len(labels))
    axes.set_yticks(range(len(labels)), [textwrap.fill(_printable(label), 26) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    return figure, axes


def _accuracy(groups: Sequence[Group], rows: Sequence[Row]) -> Any:
    figure, axes = _rows([row.label for row in rows])
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        half = None if row.top1.ci_half_width is None else 100 * row.top1.ci_half_width
        seeds = [100 * top1 for top1 in group.top1]
        axes.scatter(seeds, [number + 0.25] * len(seeds), s=9, color=colour, alpha=0.45, linewidths=0)
        axes.errorbar(100 * row.top1.mean, number, xerr=half, fmt="D", markersize=3.5, capsize=2, color=colour)
    axes.set_xlabel("top-1 accuracy (%)")
    return figure


def _differences(rows: Sequence[Row], baseline: Group) -> Any:
    found = [(row.label, row.difference) for row in rows if row.difference is not None]
    if not found:
        return None
    figure, axes = _rows([label for label, _ in found])
    axes.axvline(0, color="0.4", linewidth=0.8)
    for number, (_, difference) in enumerate(found):
        half = None if difference.ci_high is None else 100 * (difference.ci_high - difference.mean)
        axes.errorbar(100 * difference.mean, number, xerr=half, fmt="o", markersize=3.5, capsize=2, color=COLOURS[0])
    axes.set_xlabel(textwrap.fill(f"Δ top-1 vs. {_printable(baseline.label)} (points)", 44))
    return figure


def _training(groups: Sequence[Group]) -> Any:
    metrics = metrics_of(groups)
    drawn = [
        (title, unit, [curve(label, epochs, field, scale).finite() for label, epochs in metrics.items()])
        for field, title, unit, scale in CURVES
    ]
    drawn = [panel for panel in drawn if any(line.points for line in panel[2])]
    if not drawn:
        return None
    columns = max(1, min(4, 110 // max(len(group.label) + 8 for group in groups)))
    legend_rows = -(-len(groups) // columns)
    figure, panels = _axes(PAGE, 2.1 + 0.16 * legend_rows, len(drawn))
    for axes, (title, unit, lines) in zip(panels, drawn, strict=True):
        for number, line in enumerate(lines):
            colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]
            epochs, mean, low, high = zip(*line.points, strict=True) if line.points else ((), (), (), ())
            axes.plot(epochs, mean, dash, color=colour, label=_printable(line.label))
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{title.lower()} (%)" if "%" in unit else title.lower())
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    return figure


def _printable(text: str) -> str:
    """A label without characters that SVG or PDF cannot hold."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
