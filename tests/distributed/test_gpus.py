"""Which GPU each process has."""

from types import SimpleNamespace

import pytest
import torch

from helpers.processes import together
from tekapctl.device import check_one_gpu_each
from tekapctl.distributed.communicator import join_process_group
from tekapctl.errors import TekapctlError


def told(uuids: list[str]) -> str | None:
    with join_process_group() as comm:
        torch.cuda.get_device_properties = lambda _: SimpleNamespace(uuid=uuids[comm.rank])
        try:
            with comm.raise_together():
                check_one_gpu_each(torch.device("cuda", 0), comm)
        except TekapctlError as error:
            return str(error)
    return None


@pytest.mark.parametrize(("uuids", "words"), [(["a", "b"], None), (["a", "a"], "2 processes have 1 different GPUs")])
def test_two_processes_with_one_gpu_are_refused(uuids, words):
    first, second = together(2, told, uuids)
    if words is None:
        assert first is second is None
    else:
        assert words in first
