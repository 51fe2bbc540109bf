"""A Python script in place of the program, in a process that starts at once."""

import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers.program import Started
from helpers.result import Result


@dataclass(frozen=True)
class Script:
    """What the new process does instead of the program.

    Attributes:
        path: The script.
        folder: Where it works.
    """

    path: Path
    folder: Path

    def __call__(self) -> None:
        """Run the script to its end, and the process with it."""
        os.chdir(self.folder)
        sys.argv[0] = str(self.path)
        sys.path.insert(0, str(self.path.parent))
        runpy.run_path(str(self.path), run_name="__main__")
        sys.exit()


def run_python(path: Path, arguments: list[str], folder: Path) -> Result:
    """Run a script in a folder, with a home folder in it."""
    return Started(folder / "home", tuple(arguments), folder / "output", {}, Script(path, folder)).wait()
