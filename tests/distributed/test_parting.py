"""Nothing of several processes' connections is left when they part."""

from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.processes import together
from tekapctl.distributed.communicator import join_process_group
from tekapctl.distributed.data_parallel import DataParallelStep


def of_gloo() -> list[str]:
    """The names of this process's threads that are gloo's."""
    names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def step_and_part(fails: bool) -> tuple[list[str], list[str]]:
    """Gloo's threads in the team and behind it, where what was trained is still held, as a run holds it."""
    try:
        with join_process_group() as comm:
            averaged = DataParallelStep(nn.Linear(2, 1), comm)
            for _ in range(2):
                averaged.backward(averaged(torch.ones(2, 2)).mean())
            inside = of_gloo()
            if fails:
                raise LookupError
    except LookupError:
        pass
    assert averaged.module.weight.grad is not None
    return inside, of_gloo()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
@pytest.mark.parametrize("fails", [False, True])
def test_no_thread_of_gloo_outlives_the_team(fails):
    # One that frees a message while the interpreter ends has no interpreter to ask, and aborts the process.
    for inside, behind in together(2, step_and_part, fails):
        assert inside
        assert not behind
