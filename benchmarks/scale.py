"""Time and memory of the losses against the number of samples and of classes.

OMP_NUM_THREADS=1 python benchmarks/scale.py samples|classes
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.distillation.methods.crd.memory import Memory, MemoryBanks, MemoryQueue
from tekapctl.distillation.methods.crd.negatives import ClassNegatives
from tekapctl.distillation.methods.kd import KD
from tekapctl.distillation.tekap import SeededNoise, Tekap, TekapSpec
from tekapctl.models.knowledge import Knowledge

BATCH, WIDTH, NEGATIVES = 64, 128, 16384
MIB = 2**20


def resident(line: str) -> int:
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    raise ValueError(line)


def measured(step: Callable[[], None], repeats: int = 7) -> tuple[float, float]:
    """Median seconds of a step, and the additional MiB that it needs."""
    step()
    Path("/proc/self/clear_refs").write_text("5")
    before, times = resident("VmRSS"), []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times), (resident("VmHWM") - before) / MIB


def samples() -> None:
    print("| training images | memory | entries, MiB | step, MiB | ms/step | of it drawing negatives |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for count in (50_000, 200_000, 1_281_167):
        for name in ("bank", "queue"):
            print(f"| {count:,} | {name} | {memory_of(name, count)} |")


def memory_of(name: str, count: int) -> str:
    labels = torch.randint(1000, (count,))
    index = torch.randperm(count)[:BATCH]
    student, teachers = (F.normalize(torch.randn(n, BATCH, WIDTH), dim=2) for n in (1, 2))
    student = student[0].requires_grad_()
    sampler = ClassNegatives(labels, NEGATIVES, "exact", 0)
    memory: Memory = MemoryQueue(NEGATIVES, WIDTH, temperature=0.07, seed=0)
    if name == "bank":
        memory = MemoryBanks(count, WIDTH, sampler=sampler, temperature=0.07, momentum=0.5, seed=0)

    batch = Batch(torch.zeros(BATCH, 1, 1, 1), labels[index], index, index, index, 0)

    def step() -> None:
        terms = memory.terms(student, teachers, batch, updates=2)
        (terms.student + terms.teachers.sum()).backward()

    entries = sum(buffer.numel() * buffer.element_size() for buffer in memory.buffers()) / MIB
    seconds, peak = measured(step)
    drawing = measured(lambda: sampler(index, 0))[0] if name == "bank" else 0.0
    return f"{entries:,.0f} | {peak:,.0f} | {1e3 * seconds:,.0f} | {1e3 * drawing:,.0f}"


def classes() -> None:
    print("| classes | teachers | step, MiB | ms/step |")
    print("| ---: | ---: | ---: | ---: |")
    for count in (1_000, 10_000, 100_000):
        for augmented in (0, 3):
            print(f"| {count:,} | {1 + augmented} | {logits_of(count, augmented)} |")


def logits_of(count: int, augmented: int) -> str:
    spec = TekapSpec.model_validate({"logit": {"teachers": augmented}})
    tekap, kd = Tekap(spec, SeededNoise(spec, 0)), KD(4.0)
    embedding, labels = torch.zeros(BATCH, 1), torch.zeros(BATCH, dtype=torch.int64)
    ours = Knowledge(logits=torch.randn(BATCH, count, requires_grad=True), embedding=embedding)
    theirs = Knowledge(logits=torch.randn(BATCH, count), embedding=embedding)
    batch = Batch(torch.zeros(BATCH, 1, 1, 1), labels, labels, labels, labels, 0)

    def step() -> None:
        kd.augmented_loss(ours, theirs, tekap.augment_logits(theirs, 0), batch).backward()

    seconds, peak = measured(step)
    return f"{peak:,.0f} | {1e3 * seconds:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("samples", "classes"))
    {"samples": samples, "classes": classes}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
