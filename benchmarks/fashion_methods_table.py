"""Prints docs/results.md's table of methods from the runs that fashion_methods.sh and fashion_mnist.sh made."""

import statistics

from tekapctl.experiments.comparison.groups import Group, find, group
from tekapctl.experiments.comparison.statistics import Difference, holm, paired
from tekapctl.spec import StudentSpec
from tekapctl.store.home import Home


def points(found: Group) -> list[float]:
    return [100 * value for value in found.top1]


def shown(found: Group | None) -> str:
    if found is None:
        return ""
    deviation = f" ± {statistics.stdev(points(found)):.2f}" if len(found.runs) > 1 else ""
    return f"{statistics.mean(points(found)):.2f}{deviation}"


def between(found: Difference) -> str:
    assert found.ci_low is not None
    assert found.ci_high is not None
    return f"{found.mean:+.2f} | {found.ci_low:+.2f} to {found.ci_high:+.2f}"


def main() -> None:
    home = Home.default()
    alone = next(g for g in group(find(home, [], names=["results"])) if g.first.spec.network == "resnet8")
    groups = group(find(home, [], names=["methods"]))
    plain: dict[str, Group] = {}
    augmented: dict[tuple[str, str], Group] = {}
    for each in groups:
        spec = each.first.spec
        assert isinstance(spec, StudentSpec)
        kind = "views" if spec.angular.views else "TeKAP" if "TeKAP" in each.label else ""
        if kind:
            augmented[spec.method.name, kind] = each
        else:
            plain[spec.method.name] = each
    order = sorted(plain, key=lambda name: -statistics.mean(points(plain[name])))
    gains = {name: paired(points(plain[name]), points(alone)) for name in order}
    noise = {(name, kind): paired(points(found), points(plain[name])) for (name, kind), found in augmented.items()}
    of_gains = holm({name: found.p_value for name, found in gains.items() if found.p_value is not None})
    of_noise = holm(
        {f"{name} {kind}": found.p_value for (name, kind), found in noise.items() if found.p_value is not None}
    )

    print(f"no distillation: {shown(alone)}\n")
    print("| method | without TeKAP | Δ vs. no distillation | 95 % CI | p (Holm) |\n| --- | --- | --- | --- | --- |")
    for name in order:
        print(f"| {name} | {shown(plain[name])} | {between(gains[name])} | {of_gains[name]:.3f} |")
    print("\n| method | augmented | Δ vs. plain | 95 % CI | p (Holm) |\n| --- | --- | --- | --- | --- |")
    for kind in ("TeKAP", "views"):
        for name in order:
            if (name, kind) in augmented:
                found = f"{shown(augmented[name, kind])} | {between(noise[name, kind])}"
                print(f"| {name} + {kind} | {found} | {of_noise[f'{name} {kind}']:.3f} |")
    seconds = {each.label: statistics.mean(float(r.summary["seconds"]) for r in each.runs.values()) for each in groups}
    print("\nslowest:", ", ".join(f"{k} {v:.0f} s" for k, v in sorted(seconds.items(), key=lambda i: -i[1])[:5]))


if __name__ == "__main__":
    main()
