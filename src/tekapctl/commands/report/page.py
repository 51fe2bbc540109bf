"""The page: what the runs were, what came of them, and the pictures of what their networks say."""

import logging
import statistics
from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib import resources

from tekapctl import __version__
from tekapctl.commands.report import charts, drawing
from tekapctl.commands.report.charts import figure, how_made
from tekapctl.commands.report.look import Looker, Said
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import Group
from tekapctl.experiments.comparison.table import COLUMNS, Row, cells
from tekapctl.spec import StudentSpec, dumps

logger = logging.getLogger(__name__)

_POINTS = 1000
_CLASSES_SHOWN = 10
_MOST_BARS = 30
_MOST_CONFUSIONS = 20
_SHOWN_PAIRS = 12


def page(groups: Sequence[Group], baseline: Group, rows: Sequence[Row], looker: Looker, opening: str = "") -> str:
    """The whole page, HTML that needs nothing from anywhere.

    Args:
        groups: The groups of runs.
        baseline: The one that others are compared with.
        rows: The table of their comparison.
        looker: Asks networks about the test images.
        opening: What comes before all else, as HTML.
    """
    style = resources.files("tekapctl.commands.report").joinpath("style.css").read_text(encoding="utf-8")
    title = _title(groups)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _lead(groups, baseline),
        opening,
        # A study has tested its contrasts already, with one correction for all: a second p-value would be another.
        _section(
            "Accuracy", _table(rows, baseline, tested=not opening) + ("" if opening else _differences(rows, baseline))
        ),
        _section("Training", charts.training(groups)),
        _section("Diversity of the teachers", charts.diversity(groups)),
        *_networks(groups, baseline, looker),
        _section("Specs", _specs(groups)),
        f"<footer>Made by tekapctl {__version__} on {datetime.now().astimezone():%Y-%m-%d}. Accuracies are top-1 on "
        "the test images, in percent.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _panels(drawn: Sequence[str]) -> str:
    return f'<div class="panels three">{"".join(drawn)}</div>'


def _title(groups: Sequence[Group]) -> str:
    specs = [group.first.spec for group in groups]
    learners = list(dict.fromkeys(spec.network for spec in specs))
    data = list(dict.fromkeys(spec.data.name for spec in specs))
    few = learners if len(learners) < 4 else [*learners[:3], "others"]
    return f"{', '.join(few)} on {', '.join(data)}"


def _lead(groups: Sequence[Group], baseline: Group) -> str:
    runs = sum(len(group.runs) for group in groups)
    seeds = sorted({seed for group in groups for seed in group.runs})
    teachers = list(
        dict.fromkeys(
            f"{found['model']} ({100 * found['top1']:.2f} %)"
            for group in groups
            for one in group.runs.values()
            if (found := one.summary.get("teacher")) and isinstance(found.get("top1"), float)
        )
    )
    of = f" Taught by {', '.join(teachers)}." if teachers else ""
    told = (
        f"{runs} run{'s' * (runs > 1)} in {len(groups)} group{'s' * (len(groups) > 1)}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}.{of} Compared with: {baseline.label}."
    )
    return f'<p class="lead">{escape(told)}</p>'


def _table(rows: Sequence[Row], baseline: Group, *, tested: bool) -> str:
    """The table of all groups; its differences and tests are left out if they stand elsewhere on the page."""
    shown = None if tested else len(COLUMNS)
    head, *body = (row[:shown] for row in cells(rows, baseline.label))
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for row, line in zip(rows, body, strict=True):
        kind = ' class="base"' if row.label == baseline.label else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>")
    tests = (
        "; differences are paired by seed, with 95 % intervals of Student's t; p is corrected after Holm for all "
        "comparisons of the table"
    )
    how = how_made(
        f"Mean and standard deviation over seeds of the last epoch{tests if tested else ''}. The last epoch is what "
        "counts: the best one was chosen with the test images."
    )
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'{how}<div class="wide">{table}</div>'


def _differences(rows: Sequence[Row], baseline: Group) -> str:
    found = [
        drawing.Interval(
            row.label,
            row.difference.mean,
            row.difference.low,
            row.difference.high,
        )
        for row in rows
        if row.difference is not None
    ]
    if not found:
        return ""
    drawn = drawing.intervals(f"Differences from {baseline.label}", found)
    caption = (
        f"Points of top-1 from {baseline.label}. A line that crosses zero may be chance; where several do not, the "
        "table's corrected p says which to believe."
    )
    return "<h3>Differences</h3>" + figure(drawn, caption)


def _networks(
    groups: Sequence[Group],
    baseline: Group,
    looker: Looker,
) -> list[str]:
    """The pictures that need the networks themselves."""
    said: dict[str, Said] = {}
    taught: dict[str, Said] = {}
    missing: list[str] = []
    for group in groups:
        logger.info(f"looking at {group.label}")
        try:
            said[group.label] = looker.student(group)
        except TekapctlError as error:
            missing.append(f"{group.label} is not in the pictures below: {error.problem}")
            continue
        try:
            teacher = looker.teacher(group)
            if teacher is not None:
                taught[group.label] = teacher
        except TekapctlError as error:
            missing.append(f"The teacher of {group.label} is not in the pictures below: {error.problem}")
    notes = "".join(f'<p class="missing">{escape(text)}</p>' for text in missing)
    return [
        notes,
        _section("Gains by class", _gains(groups, baseline)),
        _section("Confusion", _confusions(said)),
        _section("Correlation of classes", _correlations(said, taught)),
        _section("Embeddings", _embeddings(said, taught)),
    ]


def _gains(groups: Sequence[Group], baseline: Group) -> str:
    drawn = []
    for group in groups:
        shared = [seed for seed in group.runs if seed in baseline.runs]
        own, base = _per_class(group, shared), _per_class(baseline, shared)
        alike = group.first.spec.data.has_test_images_of(baseline.first.spec.data)
        if group is baseline or not alike or not own or own.keys() != base.keys():
            continue
        gains = {name: 100 * (own[name] - base[name]) for name in base}
        names = sorted(gains, key=lambda name: -gains[name])
        if len(names) > _MOST_BARS:
            names = names[: _MOST_BARS // 2] + names[-_MOST_BARS // 2 :]
        drawn.append(figure(drawing.bars(f"Gains of {group.label}", names, [gains[n] for n in names]), group.label))
    if not drawn:
        return ""
    how = how_made(
        f"Accuracy on each class's test images, less that of {baseline.label}, as means over the seeds that both have. "
        f"Of more than {_MOST_BARS} classes, those that changed most."
    )
    return how + _panels(drawn)


def _per_class(group: Group, seeds: Sequence[int]) -> dict[str, float]:
    tables = [group.runs[seed].summary["evaluation"].get("per_class", {}) for seed in seeds]
    alike = bool(tables) and all(table and table.keys() == tables[0].keys() for table in tables)
    return {name: statistics.mean(table[name] for table in tables) for name in tables[0]} if alike else {}


def _confusions(said: dict[str, Said]) -> str:
    drawn = []
    for label, found in said.items():
        if len(found.classes) <= _MOST_CONFUSIONS:
            picture = drawing.heat(f"Confusion of {label}", found.confusion, found.classes, most=1.0, percent=True)
            drawn.append(figure(picture, label))
        else:
            drawn.append(_confused(label, found))
    if not drawn:
        return ""
    many = any(len(found.classes) > _MOST_CONFUSIONS for found in said.values())
    how = (
        "The classes that are taken for one another most, of each group's first run."
        if many
        else "Of each class's test images (row), the percentage that gets each class (column); each group's first run."
    )
    return how_made(how) + _panels(drawn)


def _confused(label: str, found: Said) -> str:
    wrong = found.confusion.clone().fill_diagonal_(0)
    best = wrong.flatten().topk(min(_SHOWN_PAIRS, wrong.numel()))
    count = len(found.classes)
    lines = "".join(
        f"<tr><td>{escape(found.classes[place // count])} as {escape(found.classes[place % count])}</td>"
        f"<td>{100 * share:.1f}</td></tr>"
        for share, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    head = '<thead><tr><th scope="col">taken for another</th><th scope="col">% of its images</th></tr></thead>'
    return figure(f"<table>{head}<tbody>{lines}</tbody></table>", label)


def _correlations(said: dict[str, Said], taught: dict[str, Said]) -> str:
    differences = {label: taught[label].correlation - said[label].correlation for label in said if label in taught}
    if not differences:
        return ""
    most = max(float(found.abs().max()) for found in differences.values())
    drawn = []
    for label, found in differences.items():
        count = len(found)
        away = float((found.abs().sum() - found.diagonal().abs().sum()) / max(1, count * (count - 1)))
        picture = drawing.heat(f"Correlation, teacher less {label}", found, said[label].classes, most=most)
        drawn.append(figure(picture, f"{label}: mean absolute difference {away:.4f}"))
    how = how_made(
        "Over the test images, how the logits of two classes go together in the teacher, less how they do in the "
        "student (the picture of the CRD and TeKAP papers). Paler is nearer to the teacher; all are on one "
        f"scale, whose strongest shade is {most:.2f}. Blue: more correlated in the teacher; orange: less. Networks "
        "that had no teacher are not here."
    )
    return how + _panels(drawn)


def _embeddings(said: dict[str, Said], taught: dict[str, Said]) -> str:
    shown: dict[str, Said] = {}
    for label, found in taught.items():
        if not any(found is other for other in shown.values()):
            shown[f"teacher of {label}" if shown else "teacher"] = found
    shown |= said
    if not shown:
        return ""
    names = next(iter(shown.values())).classes
    count = min(_CLASSES_SHOWN, len(names))
    chosen = [number * len(names) // count for number in range(count)]
    drawn = []
    for label, found in shown.items():
        if found.classes != names:
            continue
        points, labels, share = found.plane(_POINTS * max(1, len(names) // count))
        keep = (labels.unsqueeze(1) == labels.new_tensor(chosen)).any(1)
        picture = drawing.scatter(f"Embeddings of {label}", points[keep], labels[keep], chosen, names)
        drawn.append(figure(picture, f"{label}: {100 * share:.0f} % of the variance"))
    some = f" {count} of {len(names)} classes, evenly chosen." if count < len(names) else ""
    how = how_made(
        "Test images in the plane of their embeddings' two principal components; each network has its own plane, so "
        f"compare how classes part, not where they are.{some}"
    )
    legend = drawing.legend([names[number] for number in chosen], points=True)
    return how + legend + _panels(drawn)


def _specs(groups: Sequence[Group]) -> str:
    parts = []
    for group in groups:
        runs = ", ".join(group.runs[seed].run.id for seed in sorted(group.runs))
        spec = group.first.spec
        kind = "distilled" if isinstance(spec, StudentSpec) else "trained alone"
        parts.append(
            f"<details><summary>{escape(group.label)}, {kind}</summary><p class='how'>Runs: {escape(runs)}</p>"
            f"<pre>{escape(dumps(spec))}</pre></details>"
        )
    return "".join(parts)
