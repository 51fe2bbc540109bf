"""Images of your own: a folder for each class, made here on the fly.

python examples/own_images.py
python examples/own_images.py --folder photographs      # yours: photographs/CLASS/*.jpg
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tekapctl.api import distill, evaluate, train_teacher


def draw(folder: Path, count: int) -> None:
    """Write noisy pictures of three weaves, as `folder/CLASS/NUMBER.png`."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    for name in ("stripes", "bars", "checks"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            down, across = (np.sin(place * random.uniform(0.4, 0.9) + random.uniform(0, 6)) for place in (y, x))
            weave = {"stripes": down, "bars": across, "checks": down * across}[name]
            colours = random.uniform(20, 235, (2, 3))
            pixels = colours[0] + (colours[1] - colours[0]) * (weave[:, :, None] + 1) / 2
            pixels += random.normal(0, 20, pixels.shape)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder with a folder of images for each class")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=100, help="images of each class to make")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as made:
        folder = options.folder
        if folder is None:
            folder = Path(made, "weaves")
            draw(folder, options.images)
        # About a fifth of the images become the test set, by a hash of their names; folders train and val are used as
        # they are.
        training = {
            "data": {"name": f"folder:{folder}", "size": 32},
            "epochs": options.epochs,
            "batch_size": 16,
            "optimizer": {"learning_rate": 0.02},
        }
        teacher = train_teacher(model="resnet20", **training)
        student = distill(teacher=teacher["run"], student="resnet8", method="kd", **training)
        found = evaluate(student["run"])["evaluation"]
    print(f"teacher {teacher['last_top1']:.1%}, student {student['last_top1']:.1%}")
    for name, accuracy in found["per_class"].items():
        print(f"{name:>10} {accuracy:.1%}")


if __name__ == "__main__":
    main()
