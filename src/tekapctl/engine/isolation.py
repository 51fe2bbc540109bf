"""Computes something with a run's networks and losses and leaves the run as it was."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tekapctl.engine.objective import Objective
from tekapctl.parallel.team import Team


def copied(objective: Objective, team: Team) -> Objective:
    """An objective with parameters and buffers of its own, under the same teachers and augmented teachers.

    Args:
        objective: The objective.
        team: The processes of the run, which are no copies either.
    """
    shared = {id(each): each for member in objective.distillations for each in (member.teacher, member.tekap)}
    return copy.deepcopy(objective, {**shared, id(team): team})


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Give a network its buffers back, such as its batch norms' statistics."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            setattr(module, name, buffer.copy_(value))


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Give PyTorch's global generators their states back."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        yield
