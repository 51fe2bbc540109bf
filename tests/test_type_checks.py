"""The suite's check of signatures: each kind of call is checked, in every module, and passes or fails as it should."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from helpers.typechecking import checked
from tekapctl.data.batch import Batch
from tekapctl.models.knowledge import Knowledge
from tekapctl.models.network import pool
from tekapctl.models.normalization import Normalization
from tekapctl.randomness import derive

VECTOR = torch.ones(3)


@checked
def added(one: Float[Tensor, " n"], other: Float[Tensor, " n"], *, times: int = 1) -> Float[Tensor, " n"]:
    return (one + times * other)[: 3 if times == 1 else None]


def test_calls_of_a_kind_that_passed_do_not_let_another_kind_pass():
    for _ in range(2):
        assert added(VECTOR, VECTOR).tolist() == [2, 2, 2]
    for arguments in ((VECTOR, torch.ones(1)), (VECTOR, VECTOR.int()), (VECTOR, 1.0), (torch.ones(3, 3), VECTOR)):
        for _ in range(2):
            with pytest.raises(TypeCheckError):
                added(*arguments)
    with pytest.raises(TypeCheckError):
        added(VECTOR, VECTOR, times=1.0)
    assert added(VECTOR, VECTOR, times=2).tolist() == [3, 3, 3]


def test_the_result_is_checked_where_the_arguments_pass():
    long = torch.ones(5)
    with pytest.raises(TypeCheckError):
        added(long, long)
    assert len(added(long, long, times=2)) == 5


def test_functions_methods_and_dataclasses_of_the_package_are_checked():
    numbers = torch.arange(2)
    for call in (
        lambda: derive("seed", "order"),
        lambda: pool(torch.ones(2, 3)),
        lambda: Normalization((0.5,), (0.25,))(torch.ones(2, 3)),
        lambda: Knowledge(torch.ones(2, 3), torch.ones(4, 5)),
        lambda: Batch(torch.ones(2, 1, 4, 4), numbers, numbers, numbers, numbers, "first"),
    ):
        with pytest.raises(TypeCheckError):
            call()
