"""Run the published procedure and tekapctl alternately and print the speed-up, as Markdown.

Example: python benchmarks/compare.py --rounds 3 --output benchmarks/results/cpu.md
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
LEVELS = {
    "logit": ["--method", "kd", "--gamma", "0.1", "--alpha", "0.9", "--beta", "0"],
    "both": ["--method", "crd", "--gamma", "1", "--alpha", "1", "--beta", "0.8"],
}


def call(*command: str, home: str) -> dict[str, float]:
    """The JSON that a program prints."""
    environment = {**os.environ, "TEKAPCTL_HOME": home}
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(found.stdout)
    return result


def contrast_alone(samples: int, negatives: int, classes: int, batch: int, steps: int) -> dict[str, float]:
    """Tekapctl's CRD, with its sampling and its backward pass, on the shapes of reference.py's."""
    from reference import resident

    from tekapctl.data.batch import Batch
    from tekapctl.distillation.methods.crd import Projection
    from tekapctl.distillation.methods.crd.memory import MemoryBanks
    from tekapctl.distillation.methods.crd.negatives import ClassNegatives

    labels = torch.arange(samples) % classes
    sampler = ClassNegatives(labels, negatives, "exact", seed=0)
    banks = MemoryBanks(samples, 128, sampler=sampler, temperature=0.07, momentum=0.5, seed=0)
    project_student, project_teacher = Projection(64, 128), Projection(64, 128)
    student, teacher = torch.randn(batch, 64, requires_grad=True), torch.randn(batch, 64)
    before, times = resident(), []
    for step in range(3 + steps):
        began = time.perf_counter()
        index = torch.randperm(samples)[:batch]
        drawn = Batch(torch.zeros(batch, 1, 1, 1), labels[index], index, index, index, step)
        terms = banks.terms(project_student(student), project_teacher(teacher).unsqueeze(0), drawn, updates=1)
        (terms.student + terms.teachers.sum()).backward()
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"step_seconds": statistics.median(times[3:]), "extra_bytes": peak - before}


def processor() -> str:
    """The machine's processor, for people."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    flags = set(info.read_text().split())
    has = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    return (
        f"{os.cpu_count()} cores of {names[0] if names else platform.processor()} ({', '.join(has) or 'no bfloat16'})"
    )


def row(name: str, reference: list[float], ours: list[float]) -> str:
    """A line of the table: medians, and the ratio with the least and greatest of the rounds."""
    ratios = [a / b for a, b in zip(reference, ours, strict=True)]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {1000 * statistics.median(reference):.0f} | {1000 * statistics.median(ours):.0f} | {spread} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--contrast-alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contrast_alone:
        print(json.dumps(contrast_alone(50_000, 16_384, 100, 64, options.steps)))
        return
    steps = str(options.steps)
    lines = [
        f"{datetime.date.today()}, {processor()}, device {options.device}, PyTorch {torch.__version__}, "
        f"{options.rounds} alternating rounds of {steps} steps, {options.workers} loader workers for the reference; "
        "resnet32x4 > resnet8x4, 50,000 images of 32x32 and 100 classes, batch 64, 16,384 negatives.",
        "",
        "| | reference, ms/step | tekapctl, ms/step | speed-up |",
        "| --- | --- | --- | --- |",
    ]
    overheads: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as home:
        for level, settings in LEVELS.items():
            found: dict[str, list[float]] = {"reference": [], "live": [], "cached": []}
            for _ in range(options.rounds):
                reference = [str(HERE / "reference.py"), "--level", level, "--steps", steps]
                reference += ["--device", options.device, "--workers", str(options.workers)]
                found["reference"].append(call(*reference, home=home)["step_seconds"])
                for teacher in ("live", "cached"):
                    flag = "--cache-teacher" if teacher == "cached" else "--no-cache-teacher"
                    command = ["-m", "tekapctl", "bench", *settings, flag, "--steps", steps, "--json"]
                    result = call(*command, "--device", options.device, home=home)
                    found[teacher].append(result["step_seconds"])
                    overhead = result["step_seconds"] / result["network_seconds"]
                    if teacher == "live":
                        overheads.setdefault(level, []).append(overhead)
            title = {"logit": "logit level", "both": "both levels"}[level]
            lines.append(row(f"{title}, teacher live", found["reference"], found["live"]))
            lines.append(row(f"{title}, teacher cached", found["reference"], found["cached"]))
        if options.device == "cpu":
            alone: dict[str, list[dict[str, float]]] = {"reference": [], "ours": []}
            for _ in range(options.rounds):
                of_reference = [str(HERE / "reference.py"), "--level", "contrast", "--steps", steps]
                alone["reference"].append(call(*of_reference, home=home))
                alone["ours"].append(call(__file__, "--contrast-alone", "--steps", steps, home=home))
            times = {who: [one["step_seconds"] for one in each] for who, each in alone.items()}
            memory = {who: statistics.median(one["extra_bytes"] for one in each) for who, each in alone.items()}
            lines.append(row("CRD's loss with its sampling", times["reference"], times["ours"]))
            lines += [
                "",
                f"Memory that CRD's loss adds: {memory['reference'] / 2**20:.0f} MiB in the reference, "
                f"{memory['ours'] / 2**20:.0f} MiB in tekapctl.",
            ]
    for level, ratios in overheads.items():
        lines.append(
            f"With a live teacher, a step at the level `{level}` takes {statistics.median(ratios):.2f} times as long "
            "as the teacher's forward and the student's forward and backward pass alone."
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
