"""Reading all image files of a dataset once: into memory, or for their statistics and the damaged ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_set import ChannelStatistics, channel_statistics, histogram
from tekapctl.store.atomic import atomic_write, make_folder


def decode_all(files: ImageFiles) -> tuple[UInt8[Tensor, "n c h w"], list[str]]:
    """The pixels of all files, and the paths of those that cannot be read (their pixels are black)."""
    images = torch.empty(files.shape, dtype=torch.uint8)
    damaged: list[str] = []
    done = 0
    for part, unreadable in files.batches():
        images[done : done + len(part)] = part
        done += len(part)
        damaged += [path for path, _ in unreadable]
    return images, damaged


@dataclass(frozen=True)
class Scan:
    """What is known about streamed files: the training images' statistics, and the files that cannot be read."""

    statistics: ChannelStatistics
    damaged: Sequence[str]


def scan(train: ImageFiles, test: ImageFiles, cache: Path) -> Scan:
    """Read all files of a dataset once; the result is stored and reused while no file changes."""
    key = sha256(train.identify() + test.identify()).hexdigest()[:32]
    path = cache / f"{key}.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        mean, std = (tuple(float(value) for value in table[name]) for name in ("mean", "std"))
        if len(mean) == len(std) == train.channels and train.are_unreadable(map(str, table["damaged"])):
            return Scan((mean, std), [str(path) for path in table["damaged"]])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    levels, damaged = torch.zeros(train.channels, 256, dtype=torch.float64), []
    for files in (train, test):
        for part, unreadable in files.batches():
            damaged += [path for path, _ in unreadable]
            if files is train:
                levels += histogram(part)
                levels[:, 0] -= len(unreadable) * files.size[0] * files.size[1]  # these are black
    mean, std = channel_statistics(levels)
    make_folder(cache)
    atomic_write(path, json.dumps({"mean": mean, "std": std, "damaged": damaged}).encode())
    return Scan((mean, std), damaged)
