"""Time per step of the augmented logits for each perturbation: microseconds, and the ratio to isotropic noise.

OMP_NUM_THREADS=1 python benchmarks/perturbations.py [--classes 100] [--batch 64] [--width 256] [--teachers 3]
"""

import argparse
import statistics
import time

import torch
from torch import nn

from tekapctl.device import resolve_device
from tekapctl.distillation.perturbations import PERTURBATIONS, PerturbationContext, TeacherStatistics
from tekapctl.distillation.tekap import SeededNoise, Tekap, TekapSpec
from tekapctl.models.knowledge import Knowledge

SURVEYED = 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--teachers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = resolve_device(given.device)
    head = nn.Linear(given.width, given.classes)
    embedding = torch.randn(SURVEYED, given.width).relu()
    with torch.no_grad():
        logits = head(embedding)
    labels = torch.arange(SURVEYED) % given.classes
    asked = TeacherStatistics(logits.double(), labels, embedding.double().square().mean(0))
    batch = Knowledge(logits[: given.batch].to(device), embedding[: given.batch].to(device))
    labels = labels[: given.batch].to(device)

    def tekap(name: str) -> Tekap:
        spec = TekapSpec.model_validate({"logit": {"perturbation": name, "teachers": given.teachers}})
        basis = PerturbationContext(head, device, spec.logit.dropout, lambda: asked)
        return Tekap(spec, SeededNoise(spec, 0), PERTURBATIONS[name](basis))

    made = {name: tekap(name) for name in PERTURBATIONS}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for step in range(given.steps):
        for name, each in made.items():  # in turn, so that all meet the machine's moods
            began = time.perf_counter()
            each.augment_logits(batch, step, 0, labels)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print("| perturbation | microseconds/step | relative to isotropic noise |\n| --- | ---: | ---: |")
    for name, median in medians.items():
        print(f"| {name} | {1e6 * median:,.0f} | {median / medians['isotropic']:.2f} |")


if __name__ == "__main__":
    main()
