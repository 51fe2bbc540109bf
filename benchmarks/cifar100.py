"""Runs of sweeps around CIFAR-100 as one JSON file, and the tables and figures of docs/ and README.md, made from it.

python benchmarks/cifar100.py collect HOME --sweep cifar100-small --machine "two cores of ..."
python benchmarks/cifar100.py write                    # the tables between the markers of the pages, and the figures
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from cifar100_figure import draw

from tekapctl.experiments.comparison.statistics import Difference, holm, paired
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cifar100.json"
FIGURES = {"cifar100-small": ROOT / "docs" / "cifar100-small.png"}
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in ("results", "training", "networks")))
TEACHER = "teacher"
ALONE = "no distillation"
Pairs = tuple[tuple[str, str], ...]
_SMALL: Pairs = (
    ("KD", ALONE),
    ("KD, TeKAP's total weight", "KD"),
    ("TeKAP logit without noise", "KD"),
    ("TeKAP logit", "KD"),
    ("TeKAP logit", "KD, TeKAP's total weight"),
    ("TeKAP logit", "TeKAP logit without noise"),
    ("CRD", ALONE),
    ("CRD, student term doubled", "CRD"),
    ("TeKAP feature", "CRD"),
    ("TeKAP feature", "CRD, student term doubled"),
    ("TeKAP both", "TeKAP feature"),
    ("TeKAP both", "KD, TeKAP's total weight"),
)
PAIRS: dict[str, Pairs] = {
    "cifar100-small": _SMALL,
    "cifar100-small-60-epochs": _SMALL,
    "recipe": tuple((f"{arm}, modern recipe", f"{arm}, published recipe") for arm in ("alone", "KD", "TeKAP")),
    "other-classes": (("embed", "no teacher"), ("seed", "no teacher")),
}
"""Arms of a sweep that differ in one thing."""

Record = dict[str, Any]


def record(run: Run, machine: str) -> Record:
    """What is kept of a finished run."""
    mark, summary, metrics = json.loads((run.path / "trial.json").read_text()), run.summary(), run.metrics()
    assert summary is not None
    made = json.loads((run.path / "environment.json").read_text())
    spec = mark["spec"]
    if spec["data"].get("folder"):
        spec["data"]["folder"] = Path(spec["data"]["folder"]).name
    split = "val" if spec["data"]["val_fraction"] else "test"
    evaluation = {key: value for key, value in summary["evaluation"].items() if key not in ("per_class", "confusions")}
    return {
        "run": run.id,
        "label": re.sub(r",? seed \d+", "", mark["label"]),
        "spec": spec,
        "date": run.id[:8],
        "machine": machine,
        **{key: made[key] for key in ("commit", "torch", "python", "device")},
        **{key: summary[key] for key in ("last_top1", "best_top1", "best_epoch", "seconds")},
        "teacher_top1": (summary.get("teacher") or {}).get("top1"),
        "evaluation": evaluation,
        **({"raw_top1": summary["raw_top1"]} if "raw_top1" in summary else {}),
        f"{split}_top1": [round(entry[f"{split}_top1"], 4) for entry in metrics],
        "train_top1": [round(entry["train_top1"], 4) for entry in metrics],
        "train_loss": [round(entry["train_loss"], 4) for entry in metrics],
    }


def collect(home: Path, sweep: str, machine: str) -> None:
    """Add the finished runs of a sweep to the results."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    known = {each["run"]: each for each in kept.get(sweep, [])}
    for run in Runs(Home(home).runs).all():
        if run.status == "finished" and f"-{sweep}-" in run.id:
            known[run.id] = record(run, machine)
    kept[sweep] = [known[name] for name in sorted(known)]
    RESULTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    print(f"{sweep}: {len(known)} runs")


def arms(sweep: str, runs: list[Record]) -> dict[str, dict[int, Record]]:
    """Runs by arm and seed, without the teacher."""
    found: dict[str, dict[int, Record]] = defaultdict(dict)
    for each in runs:
        if each["spec"].get("student", each["spec"].get("model")) == "resnet8":
            found[each["label"]][each["spec"]["seed"]] = each
    order = {
        name: place
        for place, name in enumerate(dict.fromkeys(name for pair in PAIRS[sweep] for name in reversed(pair)))
    }
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def spread(values: list[float], decimals: int) -> str:
    """The mean, with the standard deviation of several."""
    mean = f"{statistics.fmean(values):.{decimals}f}"
    return f"{mean} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else mean


def percent(values: list[float]) -> str:
    """The mean in percent, with the standard deviation of several."""
    return spread([100 * value for value in values], 2)


def means(sweep: str, runs: list[Record]) -> str:
    """The table of all arms."""
    rows = [
        "| student | seeds | last epoch | best epoch |",
        "| --- | --- | --- | --- |",
    ]
    for name, by_seed in arms(sweep, runs).items():
        last, best = ([each[key] for each in by_seed.values()] for key in ("last_top1", "best_top1"))
        rows.append(f"| {name} | {len(by_seed)} | {percent(last)} | {percent(best)} |")
    return "\n".join(rows)


QUALITIES = {
    "agreement with the teacher, %": ("agreement", 100, 2),
    "correlation distance": ("correlation_distance", 1, 4),
    "calibration error, %": ("calibration_error", 100, 2),
    "negative log-likelihood": ("negative_log_likelihood", 1, 4),
}
"""Columns, with their names in an evaluation, factors and decimals."""


def qualities(sweep: str, runs: list[Record]) -> str:
    """The table of what an evaluation measures beside accuracy."""
    rows = [f"| student | seeds | {' | '.join(QUALITIES)} |", "| --- " * (2 + len(QUALITIES)) + "|"]
    for name, by_seed in arms(sweep, runs).items():
        cells = []
        for key, factor, decimals in QUALITIES.values():
            values = [factor * run["evaluation"][key] for run in by_seed.values() if run["evaluation"][key] is not None]
            cells.append(spread(values, decimals) if values else "")
        rows.append(f"| {name} | {len(by_seed)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def paired_arms(sweep: str, runs: list[Record]) -> dict[str, Difference]:
    """Differences in points of arms that share two or more seeds, paired by seed."""
    found, by_arm = {}, arms(sweep, runs)
    for one, other in PAIRS[sweep]:
        seeds = sorted(by_arm.get(one, {}).keys() & by_arm.get(other, {}).keys())
        if len(seeds) > 1:
            sides = [[100 * by_arm[arm][seed]["last_top1"] for seed in seeds] for arm in (one, other)]
            found[f"{one} - {other}"] = paired(*sides)
    return found


def differences(sweep: str, runs: list[Record]) -> str:
    """The table of paired differences."""
    found = paired_arms(sweep, runs)
    adjusted = holm({name: each.p_value for name, each in found.items() if each.p_value is not None})
    rows = ["| difference in points | seeds | mean | 95 % interval | p (Holm) |", "| --- | --- | --- | --- | --- |"]
    for name, each in found.items():
        interval = "" if each.ci_low is None else f"{each.ci_low:+.2f} to {each.ci_high:+.2f}"
        p = f"{adjusted[name]:.3f}" if name in adjusted else ""
        rows.append(f"| {name.replace(' - ', ' − ')} | {each.pairs} | {each.mean:+.2f} | {interval} | {p} |")
    return "\n".join(rows)


def every(sweep: str, runs: list[Record]) -> str:
    """The table of all runs."""
    rows = [
        "| run | student | seed | last | best | its epoch | commit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in runs:
        last, best = (f"{100 * each[key]:.2f}" for key in ("last_top1", "best_top1"))
        seed, commit = each["spec"]["seed"], (each["commit"] or "")[:9]
        rows.append(
            f"| {each['run'][:15]} | {each['label']} | {seed} | {last} | {best} | {each['best_epoch']} | {commit} |"
        )
    return "\n".join(rows)


TABLES = {"means": means, "qualities": qualities, "differences": differences, "runs": every}


def write() -> None:
    """Put the tables between their markers, `<!-- cifar100 SWEEP TABLE -->` and `<!-- end -->`; draw the figures."""
    results = json.loads(RESULTS.read_text())

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n\n{TABLES[found[3]](found[2], results[found[2]])}\n\n{found[4]}"

    marker = re.compile(r"(<!-- cifar100 (\S+) (\S+) -->)\n.*?(<!-- end -->)", re.DOTALL)
    for page in PAGES:
        page.write_text(marker.sub(table, page.read_text(encoding="utf-8")), encoding="utf-8")
    for sweep, file in FIGURES.items():
        draw(arms(sweep, results[sweep]), paired_arms(sweep, results[sweep]), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("home", type=Path)
    collecting.add_argument("--sweep", required=True)
    collecting.add_argument("--machine", required=True)
    commands.add_parser("write")
    given = parser.parse_args()
    if given.command == "collect":
        collect(given.home, given.sweep, given.machine)
    write()


if __name__ == "__main__":
    main()
