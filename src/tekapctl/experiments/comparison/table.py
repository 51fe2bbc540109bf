"""The table that compares groups of runs, and its Markdown, LaTeX and CSV forms."""

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.groups import Group
from tekapctl.experiments.comparison.statistics import ALPHA, Difference, Summary, holm, paired


@dataclass(frozen=True)
class Row:
    """A group's results; accuracies are fractions from 0 to 1, and means are over seeds.

    The difference is that of `top1` from the baseline, paired by seed; None for the baseline. Its p-value is
    Holm-adjusted for all rows.
    """

    label: str
    top1: Summary
    best_top1: float
    agreement: float | None
    parameters: int
    seconds: float
    difference: Difference | None
    p_holm: float | None

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after the correction."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def has_fewer_pairs(self) -> bool:
        """Whether the difference is over fewer seeds than the group has."""
        return self.difference is not None and self.difference.pairs < self.top1.seeds

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "significant": self.significant}


def difference(one: Group, other: Group) -> Difference | None:
    """The difference of two groups' top-1 accuracies, paired by seed.

    Returns:
        None if they have no seed in common, or were trained or tested on different images.
    """
    seeds = sorted(one.runs.keys() & other.runs.keys())
    if not seeds or not one.first.spec.data.has_test_images_of(other.first.spec.data):
        return None
    return paired(*([group.runs[seed].top1 for seed in seeds] for group in (one, other)))


def compare(groups: Sequence[Group], baseline: Group) -> list[Row]:
    """A row for each group."""
    differences = {each.label: difference(each, baseline) for each in groups if each is not baseline}
    adjusted = holm({label: d.p_value for label, d in differences.items() if d is not None and d.p_value is not None})
    rows = []
    for each in groups:
        summaries = [run.summary for run in each.runs.values()]
        agreements = [found for one in summaries if (found := one["evaluation"].get("agreement")) is not None]
        top1 = Summary.of(each.top1)
        assert top1 is not None
        rows.append(
            Row(
                each.label,
                top1,
                statistics.fmean(float(one["best_top1"]) for one in summaries),
                statistics.fmean(agreements) if agreements else None,
                each.first.summary["evaluation"]["parameters"],
                statistics.fmean(float(one["seconds"]) for one in summaries),
                differences.get(each.label),
                adjusted.get(each.label),
            )
        )
    return rows


COLUMNS = ("method", "seeds", "top-1 (%)", "std", "best (%)", "agreement (%)", "parameters", "time (s)")


def cells(rows: Sequence[Row], baseline: str) -> list[list[str]]:
    """The table as text, header first; accuracies in percent."""
    table = [[*COLUMNS, f"Δ vs. {baseline}", "95 % CI", "p (Holm)"]]
    for row in rows:
        percent = [number(value, scale=100.0) for value in (row.top1.mean, row.top1.std, row.best_top1, row.agreement)]
        table.append(
            [
                *(row.label, str(row.top1.seeds), *percent, f"{row.parameters:,}", f"{round(row.seconds):,}"),
                *(*difference_cells(row.difference, 100.0), p_text(row.p_holm)),
            ]
        )
    return table


def number(value: float | None, *, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
    """A number as text; empty for None."""
    # Adding zero turns -0.0 into 0.0.
    return "" if value is None else f"{round(scale * value, digits) + 0.0:{sign}.{digits}f}"


def p_text(p: float | None, equals: str = "") -> str:
    """A p-value as text; empty for None."""
    return "" if p is None else f"{equals}{p:.3f}" if p >= 0.0005 else "< 0.001"


def difference_cells(difference: Difference | None, scale: float, digits: int = 2, unit: str = "") -> tuple[str, str]:
    """A difference and its confidence interval as text."""
    if difference is None:
        return "", ""
    mean, low, high = (
        number(value, scale=scale, digits=digits, sign="+")
        for value in (difference.mean, difference.ci_low, difference.ci_high)
    )
    return f"{mean} {unit}".rstrip(), f"{low} to {high}" if low else ""


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], f"|{' --- |' * len(table[0])}", *lines[1:]]) + "\n"


def latex(table: Sequence[Sequence[str]]) -> str:
    """A table as LaTeX, for the package booktabs."""
    lines = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in table]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(table: Sequence[Sequence[str]]) -> str:
    """A table as CSV, without thousands separators."""
    written = io.StringIO()
    plain = [[cell.replace(",", "") if _THOUSANDS.fullmatch(cell) else cell for cell in row] for row in table]
    csv.writer(written, lineterminator="\n").writerows(plain)
    return written.getvalue()


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "<": "$<$",
    ">": "$>$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def escape_latex(text: str) -> str:
    """A text as LaTeX shows it."""
    return "".join(_LATEX.get(sign, sign) for sign in text)
