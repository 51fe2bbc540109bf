"""The table that compares groups of runs, and the forms in which it is written."""

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.groups import Group
from tekapctl.experiments.comparison.intervals import Difference, holm, paired


@dataclass(frozen=True)
class Row:
    """A group's numbers; accuracies are in percent, differences in points of percent.

    Attributes:
        label: The group.
        seeds: How many runs.
        last: Mean top-1 after the last epoch.
        deviation: Its standard deviation over seeds.
        best: Mean of the best epochs.
        agreement: Mean share of test images that get the teacher's class.
        parameters: Of the network.
        seconds: Mean time of a run.
        difference: From the baseline, over the seeds that both have; None of the baseline.
        corrected: The difference's probability by chance, corrected for the number of comparisons.
    """

    label: str
    seeds: int
    last: float
    deviation: float | None
    best: float
    agreement: float | None
    parameters: int
    seconds: float
    difference: Difference | None
    corrected: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def difference(one: Group, other: Group) -> Difference | None:
    """One group's last epochs less the other's, in points, over the seeds that both have.

    Returns:
        None if they have no seed in common, or were trained or tested on different images.
    """
    if not one.first.spec.data.has_test_images_of(other.first.spec.data):
        return None
    seeds = sorted(one.runs.keys() & other.runs.keys())
    if not seeds:
        return None
    return paired(*([100 * group.runs[seed].last for seed in seeds] for group in (one, other)))


def compare(groups: Sequence[Group], baseline: Group) -> list[Row]:
    """A row for each group."""
    differences = {each.label: difference(each, baseline) for each in groups if each is not baseline}
    tested = {label: found.p for label, found in differences.items() if found is not None and found.p is not None}
    corrected = holm(tested)
    rows = []
    for each in groups:
        agreements = [run.agreement for run in each.runs.values() if run.agreement is not None]
        deviation = each.deviation()
        rows.append(
            Row(
                each.label,
                len(each.runs),
                100 * statistics.fmean(each.over_seeds("last")),
                None if deviation is None else 100 * deviation,
                100 * statistics.fmean(each.over_seeds("best")),
                100 * statistics.fmean(agreements) if agreements else None,
                each.first.summary["evaluation"]["parameters"],
                statistics.fmean(float(run.summary["seconds"]) for run in each.runs.values()),
                differences.get(each.label),
                corrected.get(each.label),
            )
        )
    return rows


COLUMNS = ("student", "seeds", "last %", "deviation", "best %", "agreement %", "parameters", "seconds")


def cells(rows: Sequence[Row], baseline: str) -> list[list[str]]:
    """The table's texts, its head first; numbers to two places."""
    head = [*COLUMNS, f"less {baseline}", "95 % interval", "p, Holm"]
    return [head, *([_text(value) for value in _values(row)] for row in rows)]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], f"|{' --- |' * len(table[0])}", *lines[1:]]) + "\n"


def latex(table: Sequence[Sequence[str]]) -> str:
    """A table as LaTeX, for the package booktabs."""
    lines = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in table]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}"
    return "\n".join([begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(table: Sequence[Sequence[str]]) -> str:
    """A table as CSV, for programs: whole numbers without separators of thousands."""
    written = io.StringIO()
    plain = [[cell.replace(",", "") if _THOUSANDS.fullmatch(cell) else cell for cell in row] for row in table]
    csv.writer(written, lineterminator="\n").writerows(plain)
    return written.getvalue()


def _values(row: Row) -> list[object]:
    found = row.difference
    ends = [] if found is None else [end for end in (found.low, found.high) if end is not None]
    interval = " to ".join(f"{end:+.2f}" for end in ends)
    return [
        row.label,
        row.seeds,
        row.last,
        row.deviation,
        row.best,
        row.agreement,
        row.parameters,
        round(row.seconds),
        "" if found is None else f"{found.mean:+.2f}",
        interval,
        "" if row.corrected is None else f"{row.corrected:.3f}",
    ]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
