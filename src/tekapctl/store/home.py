"""The folder under which everything is kept."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tekapctl.errors import UsageError


@dataclass(frozen=True)
class Home:
    """The home folder; its parts are made when they are first written.

    Attributes:
        root: The folder.
    """

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """The folder that TEKAPCTL_HOME names, else the user's data folder.

        Raises:
            UsageError: TEKAPCTL_HOME names no folder that can be used.
        """
        chosen = os.environ.get("TEKAPCTL_HOME")
        root = expand_user(chosen) if chosen else Path(platformdirs.user_data_dir("tekapctl", appauthor=False))
        try:
            str(root).encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"The home folder {str(root)!r} is not UTF-8, and weights could not be read from it.",
                "Set TEKAPCTL_HOME to another folder.",
            ) from None
        return cls(root)

    @property
    def datasets(self) -> Path:
        """Data sets, each in a folder of its name."""
        return self.root / "datasets"

    @property
    def teachers(self) -> Path:
        """Fetched pretrained teachers."""
        return self.root / "teachers"

    @property
    def downloads(self) -> Path:
        """Files as they came, and parts of such."""
        return self.root / "downloads"

    @property
    def knowledge(self) -> Path:
        """What teachers said of images, each teacher's in a folder of its own."""
        return self.root / "knowledge"

    @property
    def runs(self) -> Path:
        """Runs, each in a folder of its id."""
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        """What sweeps keep beside their runs, each in a folder of its name."""
        return self.root / "sweeps"


def expand_user(text: str) -> Path:
    """A path that a user wrote, with `~` and `~NAME` replaced by home folders.

    Raises:
        UsageError: There is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"There is no home folder for {Path(text).parts[0]!r}, so {text!r} is no path.", "Write the whole path."
        ) from None
