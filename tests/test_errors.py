"""Whatever is raised ends in a sentence."""

import pytest
import torch

from tekapctl.errors import (
    OutOfMemoryError,
    TekapctlError,
    UnexpectedError,
    UsageError,
    failures_in_words,
    smaller_batches,
)


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "The device"),
        (RuntimeError("CUDA error: out of memory"), "The device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "The device"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "The device"),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"), "The device"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), "The device"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
            "This machine",
        ),
        (MemoryError(), "This machine"),
    ],
)
def test_a_lack_of_memory_says_whose_and_what_to_do(error, whose):
    with pytest.raises(OutOfMemoryError) as raised, failures_in_words("the step", smaller=smaller_batches(64)):
        raise error
    assert raised.value.problem == f"{whose} has too little memory for the step."
    assert raised.value.remedy == "Try `batch_size=32`."
    assert raised.value.exit_code == 1
    assert raised.value.__cause__ is error


def test_what_the_allocators_of_pytorch_and_numpy_really_say_is_understood():
    import numpy as np

    for work in (lambda: torch.empty(2**60), lambda: np.empty(2**55), lambda: torch.randint(9, (2**58,))):
        with pytest.raises(OutOfMemoryError, match="This machine has too little memory"), failures_in_words("this"):
            work()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("late"), "RuntimeError: late."),
        (KeyError("features"), "KeyError: 'features'."),
        (StopIteration(), "StopIteration."),
        (ValueError("one\n\n  two.\n"), "ValueError: one two."),
        (RuntimeError("x" * 1000), f"RuntimeError: {'x' * 400}...."),
    ],
)
def test_anything_else_is_quoted_in_a_line(error, told):
    with pytest.raises(UnexpectedError) as raised, failures_in_words(lambda: "step 3 of epoch 1"):
        raise error
    assert raised.value.problem == f"Step 3 of epoch 1 failed: {told}"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [UsageError("So.", "Thus."), TekapctlError("So."), KeyboardInterrupt(), OSError(5, "no")]
)
def test_what_has_words_of_its_own_is_left_alone(error):
    with pytest.raises(type(error)) as raised, failures_in_words("it"):
        raise error
    assert raised.value is error


def test_a_function_may_be_decorated():
    @failures_in_words("counting")
    def count(value: int) -> int:
        return 10 // value

    assert count(5) == 2
    for _ in range(2):
        with pytest.raises(UnexpectedError, match=r"Counting failed: ZeroDivisionError"):
            count(0)
