"""Prints docs/results.md's tables from the runs that fashion_mnist.sh made."""

import statistics
from itertools import groupby

from tekapctl.spec import StudentSpec, load
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs

ORDER = ("alone", "KD", "KD, alpha 3.06", "TeKAP logit", "CRD", "TeKAP feature", "TeKAP both")
T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


def arm(run: Run) -> str:
    spec = load(run.path / "spec.toml")
    if not isinstance(spec, StudentSpec):
        return "alone" if spec.model == "resnet8" else "teacher"
    if spec.method.name == "kd":
        if spec.tekap.logit.teachers:
            return "TeKAP logit"
        return "KD" if spec.alpha == 0.9 else f"KD, alpha {spec.alpha}"
    if not spec.tekap.feature.teachers:
        return "CRD"
    return "TeKAP both" if spec.alpha else "TeKAP feature"


def main() -> None:
    finished = [run for run in Runs(Home.default().runs).all() if run.status == "finished"]
    runs = sorted((r for r in finished if arm(r) in ORDER), key=lambda r: (ORDER.index(arm(r)), r.summary()["seed"]))
    arms = {name: [run.summary() for run in group] for name, group in groupby(runs, arm)}
    print("| student | last epoch, mean | deviation | best epoch, mean | agreement with teacher | seconds a run |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in arms.items():
        last = [100 * s["last_top1"] for s in found]
        best = statistics.mean(100 * s["best_top1"] for s in found)
        agreements = [s["evaluation"]["agreement"] for s in found if s["evaluation"]["agreement"] is not None]
        agreement = f"{100 * statistics.mean(agreements):.2f}" if agreements else ""
        seconds = statistics.mean(s["seconds"] for s in found)
        spread = statistics.stdev(last)
        print(f"| {name} | {statistics.mean(last):.2f} | {spread:.2f} | {best:.2f} | {agreement} | {seconds:.0f} |")
    print("\n| student | seed | last epoch | best epoch | its number |\n| --- | --- | --- | --- | --- |")
    for name, found in arms.items():
        for s in found:
            last, best = 100 * s["last_top1"], 100 * s["best_top1"]
            print(f"| {name} | {s['seed']} | {last:.2f} | {best:.2f} | {s['best_epoch']} |")
    print("\n| against | difference, mean | 95 % interval |\n| --- | --- | --- |")
    for one, other in (
        ("KD", "alone"),
        ("TeKAP logit", "KD"),
        ("TeKAP logit", "KD, alpha 3.06"),
        ("KD, alpha 3.06", "KD"),
        ("CRD", "alone"),
        ("TeKAP feature", "CRD"),
        ("TeKAP both", "TeKAP feature"),
        ("TeKAP both", "KD, alpha 3.06"),
    ):
        pairs = zip(arms[one], arms[other], strict=True)
        differences = [100 * (a["last_top1"] - b["last_top1"]) for a, b in pairs]
        mean, half = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
        half *= T_95[len(differences) - 1]
        print(f"| {one} - {other} | {mean:+.2f} | {mean - half:+.2f} to {mean + half:+.2f} |")


if __name__ == "__main__":
    main()
