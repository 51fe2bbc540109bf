"""Prints docs/speed.md's table of accuracies from the runs that precision.sh made."""

import statistics
from collections import defaultdict

from tekapctl.spec import load
from tekapctl.store.home import Home
from tekapctl.store.runs import Runs

T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


def main() -> None:
    """Group runs by level and precision, and compare with float32 seed by seed."""
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for run in Runs(Home.default().runs).all():
        name = load(run.path / "spec.toml").name or ""
        level, _, way = name.partition("-")
        if run.status == "finished" and way in ("float32", "bfloat16", "cached"):
            summary = run.summary()
            found[level, way][summary["seed"]] = 100 * summary["last_top1"]
    print("| level | networks in | top-1 by seed | mean | less float32, mean | 95 % interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (level, way), by_seed in sorted(found.items(), key=lambda item: (item[0][0] != "logit", -len(item[0][1]))):
        seeds = sorted(by_seed)
        line = f"| {level} | {way} | {', '.join(f'{by_seed[s]:.2f}' for s in seeds)} | "
        line += f"{statistics.mean(by_seed.values()):.2f} |"
        if way == "float32":
            print(line + " | |")
            continue
        differences = [by_seed[seed] - found[level, "float32"][seed] for seed in seeds]
        mean = statistics.mean(differences)
        half = T_95[len(seeds) - 1] * statistics.stdev(differences) / len(seeds) ** 0.5
        print(f"{line} {mean:+.2f} | {mean - half:+.2f} to {mean + half:+.2f} |")


if __name__ == "__main__":
    main()
