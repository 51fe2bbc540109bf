"""The errors a user can meet: what is wrong, and what to do about it."""


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
