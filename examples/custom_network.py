"""A network of your own as the student: any factory that returns a `torch.nn.Module` from images to logits.

python examples/custom_network.py
"""

import argparse

import torch
from torch import nn

from tekapctl.api import distill, load_student, train_teacher


def small(num_classes: int, in_channels: int, width: int = 16) -> nn.Module:
    """Two convolutions. The embedding is found as the input of the last linear layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    teacher = train_teacher(model="resnet20", data="digits", epochs=epochs)
    student = distill(
        teacher=teacher["run"],
        student="custom_network:small",
        model_args={"width": 24},
        data="digits",
        method="kd",
        epochs=epochs,
    )
    print(f"teacher {teacher['last_top1']:.1%}, student {student['last_top1']:.1%}")

    network = load_student(student["run"])
    images = torch.randint(0, 256, (4, 1, 8, 8)).float()
    with torch.no_grad():
        known = network.knowledge(network.normalize(images))
    print("logits", tuple(known.logits.shape), "embedding", tuple(known.embedding.shape))
    print("feature maps", *(tuple(each.shape) for each in known.feature_maps))


if __name__ == "__main__":
    main()
