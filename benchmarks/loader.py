"""Whether the loader keeps the trainer busy: KD on photographs streamed from JPEGs, against the same from memory.

Makes the JPEGs itself, of ImageNet's usual size, and prints images a second and the share of the time in which the
trainer waits for a batch. All ways train with the same threads; the loader's processes take what is left.

    python benchmarks/loader.py [--size 64] [--images 1500] [--workers N]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from tekapctl import models
from tekapctl.data import Batches, data_spec
from tekapctl.data.files.streaming import Request
from tekapctl.device import place, resolve_precision
from tekapctl.distillation.objective import Distillation
from tekapctl.distillation.tekap import SeededNoise, Tekap
from tekapctl.models.normalization import Normalization
from tekapctl.spec import StudentSpec, parse
from tekapctl.train.trainer import Trainer

CPU = torch.device("cpu")


def photographs(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        ground = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.array(ground.filter(ImageFilter.GaussianBlur(2))) + random.normal(0, 8, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def trainer(batches: Batches, spec: StudentSpec, student: str, teacher_name: str) -> Trainer:
    teacher, learner = (place(models.build(name, 10, 3), CPU) for name in (teacher_name, student))
    for network in (teacher, learner):
        network.normalization = Normalization(batches.image_set.mean, batches.image_set.std)
    teacher.eval()

    def ask(batch):
        with torch.no_grad():
            return teacher.knowledge(teacher.normalize(batch.images), feature_maps=False)

    objective = Distillation(
        ask, Tekap(spec.tekap, SeededNoise(spec.tekap, 0)), None, gamma=0.1, alpha=0.9, beta=0.0, temperature=4.0
    )
    return Trainer(spec, learner, objective, batches, batches, resolve_precision("auto", CPU, learner, trains=True))


def epoch(trained: Trainer, number: int) -> tuple[float, float, int]:
    """Seconds of an epoch after its first step, how many of them the trainer waited, and its images."""
    batches, waited, images, began = trained.train_batches.epoch(number), 0.0, 0, None
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        got = time.perf_counter()
        if batch is None:
            return got - (began or got), waited, images
        if began is not None:
            waited += got - asked
            images += len(batch.labels)
        trained.step(batch)
        began = began or time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--student", default="torchvision:resnet18")
    parser.add_argument("--teacher", default="torchvision:resnet34")
    given = parser.parse_args()
    spec = parse({"student": given.student, "method": "kd", "batch_size": 32})
    assert isinstance(spec, StudentSpec)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "photographs"
        folder.mkdir()
        photographs(folder, given.images)
        ways = {
            "from memory": {"stream": False},
            "streamed": {"stream": True},
            "streamed, decoded images on disk": {"stream": True, "cache": True},
            "streamed, resized-crop": {"augmentation": "resized-crop"},
        }
        runs = {}
        for way, settings in ways.items():
            data = {"name": f"folder:{folder}", "size": given.size, "workers": given.workers, **settings}
            section = data_spec(data)
            train = section.load(Path(made) / "datasets").train
            batches = Batches(
                train,
                32,
                device=CPU,
                padding=section.padding,
                flip=True,
                seed=0,
                random_resized_crop=section.random_resized_crop,
            )
            runs[way] = trainer(batches, spec, given.student, given.teacher)
        files = (
            data_spec({"name": f"folder:{folder}", "size": given.size, "stream": True})
            .load(Path(made) / "datasets")
            .train.images
        )
        began = time.perf_counter()
        for number in range(200):
            files.fetch(Request((number,)))
        print(f"decoding alone, one process: {200 / (time.perf_counter() - began):,.0f} images/s")
        cached = data_spec({"name": f"folder:{folder}", "size": given.size, "stream": True, "cache": True})
        files = cached.load(Path(made) / "datasets").train.images
        began = time.perf_counter()
        count = len(files) // 32 * 32
        for first in range(0, count, 32):
            files.fetch(Request(tuple(range(first, first + 32))))
        print(f"decoded images from disk, one process: {count / (time.perf_counter() - began):,.0f} images/s")
        found = {way: [] for way in runs}
        for number in range(3):  # in turn, so that the machine's moods meet all alike
            for way, trained in runs.items():
                found[way].append(epoch(trained, number))
        for way, epochs in found.items():
            rate = statistics.median(images / seconds for seconds, _, images in epochs)
            share = statistics.median(waited / seconds for seconds, waited, _ in epochs)
            print(f"{way}: {rate:,.0f} images/s, {100 * share:.1f} % of the time waiting for a batch")


if __name__ == "__main__":
    main()
