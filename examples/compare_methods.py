"""Several methods over several seeds, with paired differences from the student without a teacher.

    python examples/compare_methods.py --methods kd dkd at --seeds 5

`tekapctl sweep` does this from a file, in parallel, and goes on where it was stopped.
"""

import argparse
from statistics import mean, stdev

from tekapctl.api import distill, train_teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["kd", "dkd", "at"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()

    training = {"batch_size": 32, "optimizer": {"learning_rate": 0.01}}
    teacher = train_teacher(model="resnet20", data="digits", epochs=max(1, options.epochs // 2), **training)
    print(f"teacher: {teacher['last_top1']:.1%}")
    few = {"data": {"name": "digits", "train_fraction": 0.1}, "epochs": options.epochs, **training}
    results: dict[str, list[float]] = {"alone": []}
    for seed in range(options.seeds):
        results["alone"].append(train_teacher(model="resnet8", seed=seed, **few)["last_top1"])
        for method in options.methods:
            # TeKAP is off, so that the methods alone are compared.
            without = {"logit": {"teachers": 0}, "feature": {"teachers": 0}}
            student = distill(teacher=teacher["run"], student="resnet8", method=method, tekap=without, seed=seed, **few)
            results.setdefault(method, []).append(student["last_top1"])

    for name, accuracies in results.items():
        differences = [ours - alone for ours, alone in zip(accuracies, results["alone"], strict=True)]
        deviation = f" ± {stdev(accuracies):.1%}" if len(accuracies) > 1 else ""
        print(f"{name:>8} {mean(accuracies):.1%}{deviation}   less alone {mean(differences):+.1%}")


if __name__ == "__main__":
    main()
