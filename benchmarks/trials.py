"""Seeds of one spec trained together against one after the other: images a second of all students.

python benchmarks/trials.py [--seeds 5] [--method kd]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from tekapctl import data, models
from tekapctl.device import resolve_device
from tekapctl.spec import StudentSpec, parse
from tekapctl.store.home import Home
from tekapctl.train.build import assemble, build_trainer
from tekapctl.train.images import make_batches
from tekapctl.train.references import Reference
from tekapctl.train.source import open_teachers, shared
from tekapctl.train.trained import Trained

NOWHERE = Path("nowhere")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--method", default="kd")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = resolve_device(given.device)
    images = {"name": "synthetic", "classes": 100, "size": 32, "samples": 50_000, "test_samples": 500}
    spec = parse({"data": images, "teacher": given.teacher, "student": given.student, "method": given.method})
    assert isinstance(spec, StudentSpec)
    network = models.build(given.teacher, 100, 3).eval()
    teacher = Trained(network, given.teacher, None, None, "0" * 64, Reference(given.teacher, NOWHERE, given.teacher))
    splits = data.load(spec.data, NOWHERE, seed=0, in_channels=3)
    home = Home(NOWHERE)
    alone = assemble(spec, splits, [teacher], device, home)
    train, test = make_batches(spec, splits, device)
    sources = shared(open_teachers(spec, [teacher], splits, train, home))
    specs = [spec.model_copy(update={"seed": seed}) for seed in range(given.seeds)]
    together = [build_trainer(each, splits, sources, train, test) for each in specs]

    def rate(trainers: list) -> float:
        batches = trainers[0].batches()
        for trainer in trainers:
            trainer.start_epoch()
        began = time.perf_counter()
        for _ in range(given.steps):
            batch = next(batches)
            for trainer in trainers:
                trainer.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return given.steps * spec.batch_size * len(trainers) / (time.perf_counter() - began)

    for trainers in ([alone], together):
        rate(trainers)
    pairs = [(rate([alone]), rate(together)) for _ in range(5)]  # in turn, so that both meet the machine's moods
    one, all_of_them = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    print(f"{given.teacher} > {given.student}, {given.method}, {given.seeds} trials on {device}")
    print(f"one after the other: {one:,.0f} images/s; together: {all_of_them:,.0f} images/s")
    print(f"{all_of_them / one:.2f} times as fast")


if __name__ == "__main__":
    main()
