"""The figure of docs/results.md: accuracy by epoch, each seed after the last one, and differences with intervals."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tekapctl.experiments.comparison.statistics import Difference
from tekapctl.report.svg import COLOURS

Arms = Mapping[str, Mapping[int, Mapping[str, Any]]]


def draw(arms: Arms, differences: Mapping[str, Difference], file: Path) -> None:
    """Write the figure; arms that have a single seed are left out."""
    arms = {name: by_seed for name, by_seed in arms.items() if len(by_seed) > 1}
    colours = dict(zip(arms, COLOURS, strict=False))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    curves, finals, gains = figure.subplots(1, 3, width_ratios=(1, 0.8, 1))
    for axes in (curves, finals, gains):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(linewidth=0.4, alpha=0.5)
        axes.tick_params(labelsize=8)
    _curves(curves, arms, colours)
    _finals(finals, arms, colours)
    _differences(gains, differences)
    figure.savefig(file, dpi=130, metadata={"Software": None})


def _curves(axes: Axes, arms: Arms, colours: Mapping[str, str]) -> None:
    for name, by_seed in arms.items():
        epochs = list(zip(*(run["test_top1"] for run in by_seed.values()), strict=True))
        means = [100 * statistics.fmean(epoch) for epoch in epochs]
        axes.plot(range(1, len(means) + 1), means, color=colours[name], linewidth=1.2, label=name)
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("test top-1 in percent, mean over seeds", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="lower right")


def _finals(axes: Axes, arms: Arms, colours: Mapping[str, str]) -> None:
    for place, (name, by_seed) in enumerate(arms.items()):
        values = [100 * run["last_top1"] for run in by_seed.values()]
        axes.plot([place] * len(values), values, "o", color=colours[name], markersize=4, alpha=0.6)
        axes.hlines(statistics.fmean(values), place - 0.3, place + 0.3, color=colours[name], linewidth=1.5)
    axes.set_xticks(range(len(arms)), [name.replace(", ", ",\n") for name in arms], rotation=40, ha="right", fontsize=7)
    axes.set_ylabel("after the last epoch: seeds and mean", fontsize=8)


def _differences(axes: Axes, differences: Mapping[str, Difference]) -> None:
    shown = {name: each for name, each in differences.items() if each.ci_low is not None}
    for place, each in enumerate(shown.values()):
        axes.hlines(place, each.ci_low, each.ci_high, color="0.35", linewidth=1.2)
        axes.plot(each.mean, place, "o", color="0.15", markersize=4)
    axes.axvline(0, color="0.15", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [name.replace(" - ", "\nminus ") for name in shown], fontsize=7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("difference in points, 95 % interval", fontsize=8)
