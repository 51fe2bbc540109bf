"""The errors a user can meet: what is wrong, and what to do about it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class TekapctlError(Exception):
    """A run, a file or a machine failed; the program ends with `exit_code`.

    Args:
        problem: One sentence that says what is wrong.
        remedy: One sentence that says what to do.
    """

    exit_code = 1
    is_told = False
    """Whether another process of the same run has said it already."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class UsageError(TekapctlError):
    """What the user asked for cannot be: a wrong option, spec, name or file."""

    exit_code = 2


def require(extra: str, module: str) -> Any:
    """A module that an optional part of the package brings.

    Raises:
        UsageError: It is not installed, or cannot be imported; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"This needs {module.split('.')[0]}, which cannot be imported: {error}.",
            f'Install it with `pip install "tekapctl[{extra}]"`.',
        ) from None


_LONGEST = 400
"""Letters of an error's text that are shown."""
_OF_THE_MACHINE = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
_OF_THE_DEVICE = ("out of memory", "ALLOC_FAILED")
"""What RuntimeErrors say, beside PyTorch's own OutOfMemoryError: cuBLAS, cuDNN and cuSOLVER have no other."""


class UnexpectedError(TekapctlError):
    """Something raised what nobody expected: a network or a method of the user's own, or a bug."""


class OutOfMemoryError(TekapctlError):
    """The device or the machine has too little memory."""


@contextmanager
def failures_in_words(
    place: str | Callable[[], str],
    *,
    smaller: str = "Use a smaller --batch-size, or another --device.",
    remedy: str = "--debug shows where it was raised.",
    spared: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Turn whatever is raised into words. Also a decorator.

    Args:
        place: What is being done, as in "step 3 of epoch 1", or a function that says it.
        smaller: What to do where memory does not suffice.
        remedy: What to do about anything else.
        spared: Errors that are raised as they are, beside the program's own: the command line has words for the
            system's.

    Raises:
        OutOfMemoryError: The device or the machine has too little memory.
        UnexpectedError: Anything else was raised that is not one of the program's own errors.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (TekapctlError, *spared)):
            raise
        where = place if isinstance(place, str) else place()
        whose = lacking_memory(error)
        if whose is not None:
            raise OutOfMemoryError(f"{whose} has too little memory for {where}.", smaller) from error
        raise UnexpectedError(f"{where[0].upper()}{where[1:]} failed: {described(error)}.", remedy) from error


def smaller_batches(batch_size: int) -> str:
    """What to do where memory does not suffice for batches of a size."""
    return f"Try --batch-size {batch_size // 2}." if batch_size > 1 else "Use a smaller network, or another --device."


def lacking_memory(error: BaseException) -> str | None:
    """Whose memory did not suffice, as the subject of a sentence; None if the error is about something else."""
    torch = sys.modules.get("torch")  # not imported here: commands without tensors start faster
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "The device"
    if isinstance(error, MemoryError):
        return "This machine"
    if isinstance(error, RuntimeError):
        text = str(error)
        if any(words in text for words in _OF_THE_MACHINE):
            return "This machine"
        if any(words in text for words in _OF_THE_DEVICE):
            return "The device"
    return None


def described(error: BaseException) -> str:
    """An error's type and text, in one line without a full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
