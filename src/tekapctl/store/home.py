"""The folder under which everything is kept."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Home:
    """The home folder; its parts are made when they are first written.

    Attributes:
        root: The folder.
    """

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """The folder that TEKAPCTL_HOME names, else the user's data folder."""
        chosen = os.environ.get("TEKAPCTL_HOME")
        return cls(
            Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("tekapctl", appauthor=False))
        )

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
