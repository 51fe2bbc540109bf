"""Random numbers that depend on a seed and a place, and on nothing that was drawn before.

A run can so start again at any step of any epoch without having kept the state of a generator.
"""

import hashlib

import torch


def derive(seed: int, *path: str | int) -> int:
    """A seed of 63 bits for a place in a run, such as `("augmentation", epoch, step)`."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(device: torch.device, seed: int, *path: str | int) -> torch.Generator:
    """A generator on the device, seeded for a place in a run."""
    return torch.Generator(device).manual_seed(derive(seed, *path))
