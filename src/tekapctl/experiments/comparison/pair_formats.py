"""The table of methods and pairs as text, Markdown, LaTeX and CSV."""

from collections.abc import Callable, Sequence
from itertools import groupby

from tekapctl.errors import counted
from tekapctl.experiments.comparison.pairs import Cell, PairTable
from tekapctl.experiments.comparison.statistics import ALPHA, Summary
from tekapctl.experiments.comparison.table import comma_separated, escape_latex, markdown, number

TEACHER = "teacher"
"""Label of the row with the teachers' accuracies."""


def heads(table: PairTable, arrow: str = ">") -> list[str]:
    """A heading for each column; the dataset only if there are several."""
    several = len({pair.dataset for pair in table.pairs}) > 1
    return [f"{pair.dataset}: " * several + f"{pair.teacher} {arrow} {pair.student}" for pair in table.pairs]


def mean_and_std(top1: Summary | None, sign: str = "±") -> str:
    """An accuracy in percent, with its standard deviation if there is one; empty for None."""
    if top1 is None:
        return ""
    mean, std = number(top1.mean, scale=100.0), number(top1.std, scale=100.0)
    return f"{mean} {sign} {std}" if std else mean


def plain_cells(table: PairTable) -> list[list[str]]:
    """The table as text without its heading, teachers first."""
    return _rows(table, lambda cell: f"{mean_and_std(cell.top1)} {cell.mark}".rstrip())


def _rows(table: PairTable, text: Callable[[Cell], str]) -> list[list[str]]:
    teachers = [[TEACHER, *map(mean_and_std, table.teachers)]] if any(table.teachers) else []
    return teachers + [
        [label, *("" if cell is None else text(cell) for cell in cells)] for label, cells in table.rows.items()
    ]


def caption(table: PairTable, *, bold: bool) -> list[str]:
    """What the table shows, in sentences; the marks are written as `*` and `†`."""
    least, most = table.seeds
    seeds = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    spread = f"mean ± standard deviation over {seeds}" if most > 1 else "one seed"
    found = [f"Top-1 accuracy (%) on the test images at the end of training, {spread}."]
    if bold:
        found.append("Bold: the best of each pair.")
    tested = [cell for cells in table.rows.values() for cell in cells if cell is not None and cell.p_holm is not None]
    if tested:
        found.append(
            f"* significantly better, † significantly worse than {table.baseline} (paired t-test over seeds, "
            f"Holm-corrected for {counted(len(tested), 'comparison')}, α = {ALPHA})."
        )
    return found


def pairs_markdown(table: PairTable) -> str:
    """The table as Markdown, with its caption below."""

    def text(cell: Cell) -> str:
        value = mean_and_std(cell.top1)
        return (f"**{value}**" if cell.best else value) + cell.mark.replace("*", "\\*")

    told = " ".join(caption(table, bold=True)).replace("*", "\\*")
    return f"{markdown([['method', *heads(table, '→')], *_rows(table, text)])}\n{told}\n"


def pairs_csv(table: PairTable) -> str:
    """The table as CSV: of each pair the mean and std in percent, the number of seeds, and the adjusted p-value."""
    header = ["method"]
    for head in heads(table):
        header += [f"{head} mean", f"{head} std", f"{head} seeds", f"{head} p (Holm)"]
    rows = [header]
    for label, cells in table.rows.items():
        row = [label]
        for cell in cells:
            if cell is None:
                row += [""] * 4
            else:
                top1 = cell.top1
                p = "" if cell.p_holm is None else f"{cell.p_holm:.4g}"
                row += [number(top1.mean, scale=100.0), number(top1.std, scale=100.0), str(top1.seeds), p]
        rows.append(row)
    return comma_separated(rows)


def pairs_latex(table: PairTable) -> str:
    """The table as a LaTeX table with a caption, for the package booktabs."""

    def text(cell: Cell | None) -> str:
        if cell is None:
            return "--"
        value = _math(cell.top1, bold=cell.best)
        return value + {"*": "$^{*}$", "†": r"$^{\dagger}$", "": ""}[cell.mark]

    datasets = [pair.dataset for pair in table.pairs]
    lines = [r"\begin{table}[t]", r"\centering", rf"\caption{{{_caption(table)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'c' * len(table.pairs)}}}", r"\toprule"]
    if len(set(datasets)) > 1:
        spans = [(name, len(list(same))) for name, same in groupby(datasets)]
        lines.append(_line(["Dataset", *(rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(name)}}}" for name, n in spans)]))
        start = 2
        rules = []
        for _, count in spans:
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        lines.append(" ".join(rules))
    lines.append(_line(["Teacher", *(escape_latex(pair.teacher) for pair in table.pairs)]))
    lines.append(_line(["Student", *(escape_latex(pair.student) for pair in table.pairs)]))
    lines.append(r"\midrule")
    if any(table.teachers):
        lines.append(_line([TEACHER, *(_math(top1) or "--" for top1 in table.teachers)]))
    for label, cells in table.rows.items():
        lines.append(_line([escape_latex(label), *map(text, cells)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _math(top1: Summary | None, *, bold: bool = False) -> str:
    """An accuracy for LaTeX; empty for None."""
    value = mean_and_std(top1, r"$\pm$")
    return rf"\textbf{{{value}}}" if bold and value else value


def _caption(table: PairTable) -> str:
    told = escape_latex(" ".join(caption(table, bold=True)))
    return told.replace("* significantly", "$^{*}$ significantly").replace("paired t-test", "paired $t$-test")


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
