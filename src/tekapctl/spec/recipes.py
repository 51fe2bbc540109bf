"""Training recipes: settings that belong together, by name, with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.registry import unknown_name


@dataclass(frozen=True)
class Recipe:
    """Fields of a training run's spec, where they come from, and what of it is left out."""

    source: str
    table: Mapping[str, Any]


RECIPES: Mapping[str, Recipe] = {
    "cifar": Recipe(
        "Tian et al., Contrastive Representation Distillation, ICLR 2020: the settings of published CIFAR-100 tables.",
        {
            "epochs": 240,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"name": "step", "milestones": [0.625, 0.75, 0.875], "gamma": 0.1},
        },
    ),
    "imagenet-90": Recipe(
        "He et al., Deep Residual Learning, CVPR 2016, as torchvision's reference scripts run it.",
        {
            "epochs": 90,
            "batch_size": 256,
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 1e-4,
                "lr_batch_size": 256,
            },
            "schedule": {"name": "step", "milestones": [1 / 3, 2 / 3], "gamma": 0.1},
        },
    ),
    "timm-a3": Recipe(
        "Wightman et al., ResNet strikes back, 2021, procedure A3 (100 epochs, LAMB, batch size 2048). Its image sizes "
        "are the dataset's: data.size = 160 and data.test_size = 224.",
        {
            "epochs": 100,
            "batch_size": 2048,
            "optimizer": {"name": "lamb", "learning_rate": 8e-3, "weight_decay": 0.02},
            "schedule": {"name": "cosine", "warmup_epochs": 5},
            "binary_targets": True,
            "data": {"augment": [{"name": "randaugment", "magnitude": 6}, {"name": "mixup", "alpha": 0.1}, "cutmix"]},
        },
    ),
    "deit": Recipe(
        "Touvron et al., Training data-efficient image transformers, ICML 2021. Stochastic depth is the network's: "
        "model_args.drop_path_rate = 0.1 for timm's transformers.",
        {
            "epochs": 300,
            "batch_size": 1024,
            "optimizer": {"name": "adamw", "learning_rate": 5e-4, "lr_batch_size": 512, "weight_decay": 0.05},
            "schedule": {"name": "cosine", "warmup_epochs": 5, "final_factor": 0.01},
            "label_smoothing": 0.1,
            "data": {
                "augment": ["randaugment", "random-erasing", {"name": "mixup", "alpha": 0.8}, "cutmix"],
                "repeats": 3,
            },
        },
    ),
    "finetune": Recipe(
        "The usual fine-tuning of pretrained weights: a small learning rate that decreases towards the input (Clark et "
        "al., ELECTRA, 2020; Bao et al., BEiT, 2022).",
        {
            "epochs": 30,
            "batch_size": 64,
            "optimizer": {"name": "adamw", "learning_rate": 3e-4, "weight_decay": 0.05, "layer_decay": 0.75},
            "schedule": {"name": "cosine", "warmup_epochs": 2},
            "label_smoothing": 0.1,
        },
    ),
}
PROBE: Mapping[str, Any] = {
    "epochs": 20,
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0},
    "schedule": {"name": "cosine"},
}
"""Settings of a linear probe: a new classifier on frozen features."""


def recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: There is none; the message has similar names.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, list(RECIPES))
    return RECIPES[name]
