"""Errors for users: what is wrong, and what to do about it, in words."""

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
    """Whether another process of the run has already reported it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".strip())
        self.problem = problem
        self.remedy = remedy


class UsageError(TekapctlError):
    """The user's input is wrong: an option, spec, name or file."""

    exit_code = 2


def require(extra: str, module: str) -> Any:
    """Import a module of an optional dependency, which an extra of this package installs.

    Raises:
        UsageError: It cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"This needs {module.split('.')[0]}, which cannot be imported: {error}.",
            f'Install it with `pip install "tekapctl[{extra}]"`.',
        ) from None


_MAX_LENGTH = 400
"""Longer error texts are shortened."""
_MACHINE_MEMORY = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
_DEVICE_MEMORY = ("out of memory", "ALLOC_FAILED")
"""Texts of RuntimeErrors of cuBLAS, cuDNN and cuSOLVER, which do not raise PyTorch's OutOfMemoryError."""


class UnexpectedError(TekapctlError):
    """An unexpected exception: from a user's network or method, or a bug."""


class OutOfMemoryError(TekapctlError):
    """The device or the machine has too little memory."""


@contextmanager
def failures_in_words(
    place: str | Callable[[], str],
    *,
    smaller: str = "Use a smaller `batch_size`, or another `device`.",
    remedy: str = "`debug` shows where it was raised.",
    spared: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Translate any exception into one of the program's errors. Also a decorator.

    Args:
        place: What is being done, such as "step 3 of epoch 1", or a function that returns it.
        smaller: Remedy if memory is exhausted.
        remedy: Remedy for any other error.
        spared: Further exceptions that are not translated; the command line handles those of the operating system.

    Raises:
        OutOfMemoryError: The device or the machine is out of memory.
        UnexpectedError: Another exception was raised that is not one of the program's errors.
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
    """The remedy if memory is exhausted with batches of a size."""
    return f"Try `batch_size={batch_size // 2}`." if batch_size > 1 else "Use a smaller network, or another `device`."


def lacking_memory(error: BaseException) -> str | None:
    """Whose memory did not suffice, as the subject of a sentence; None if the error is about something else."""
    torch = sys.modules.get("torch")  # not imported here: commands without tensors start faster
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "The device"
    if isinstance(error, MemoryError):
        return "This machine"
    text = str(error) if isinstance(error, RuntimeError) else ""
    if any(words in text for words in _MACHINE_MEMORY):
        return "This machine"
    return "The device" if any(words in text for words in _DEVICE_MEMORY) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text without a full stop; its type if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `2 classes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def described(error: BaseException) -> str:
    """The type and text of an error in one line without a full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    text = f"{text[:_MAX_LENGTH]}..." if len(text) > _MAX_LENGTH else text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
