"""The home folder, in which everything is kept, and paths that users write."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from tekapctl.errors import UsageError


@dataclass(frozen=True)
class Home:
    """The home folder, at `root`; its parts are created when they are first needed."""

    root: Path

    @classmethod
    def default(cls) -> "Home":
        """The folder in TEKAPCTL_HOME, else the user's data folder.

        Raises:
            UsageError: TEKAPCTL_HOME cannot be used.
        """
        chosen = os.environ.get("TEKAPCTL_HOME")
        root = expand_user(chosen) if chosen else Path(platformdirs.user_data_dir("tekapctl", appauthor=False))
        try:
            str(root).encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"The home folder {str(root)!r} is not valid UTF-8, and weights could not be read from it.",
                "Set TEKAPCTL_HOME to another folder.",
            ) from None
        return cls(root)

    @property
    def datasets(self) -> Path:
        """Fetched datasets, each in a folder of its name."""
        return self.root / "datasets"

    @property
    def teachers(self) -> Path:
        """Fetched pretrained teachers."""
        return self.root / "teachers"

    @property
    def downloads(self) -> Path:
        """Downloaded files, complete or not."""
        return self.root / "downloads"

    @property
    def knowledge(self) -> Path:
        """Cached teacher outputs, each teacher's in a folder."""
        return self.root / "knowledge"

    @property
    def images(self) -> Path:
        """Decoded images of folders."""
        return self.root / "images"

    @property
    def runs(self) -> Path:
        """Runs, each in a folder named by its id."""
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        """The state of sweeps, each in a folder of its name."""
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
            f"There is no home folder for {Path(text).parts[0]!r}, so {text!r} is not a path.",
            "Write the absolute path.",
        ) from None


def output_file(given: Path, home: Home, *, force: bool, what: str = "") -> Path:
    """Check the path of an output file, as the user wrote it; a link is followed to its target.

    Files of the home are never overwritten, others with `force`. The error says `what` goes there.

    Raises:
        UsageError: It is a folder or a device, belongs to the home, or exists and `force` is not set.
    """
    path = expand_user(str(given))
    found = _stat(path)
    problem, remedy = "", "Choose a file with `output`."
    if _is_kept(path.resolve(), home, is_there=found is not None):
        problem, remedy = f"is in {home.root}, where tekapctl keeps its own files", "Choose a file elsewhere."
    elif found is not None and stat.S_ISDIR(found.st_mode):
        problem = "is a folder"
    elif found is not None and not stat.S_ISREG(found.st_mode):
        problem = "is a device, pipe or socket, not a regular file"
    elif found is not None and not force:
        problem, remedy = "already exists", "Choose another `output`, or replace it with `force`."
    if problem:
        raise UsageError(f"{path}{what} {problem}.", remedy)
    return path.resolve() if path.is_symlink() else path


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        words = {
            errno.ELOOP: "is a link to itself",
            errno.ENAMETOOLONG: "is too long for a file name",
            errno.ENOTDIR: "is below something that is not a folder",
        }
        why = words.get(error.errno or 0, f"cannot be written: {error.strerror}")
        raise UsageError(f"{path} {why}.", "Choose another file with `output`.") from None


def _is_kept(place: Path, home: Home, *, is_there: bool) -> bool:
    root = home.root.resolve()
    kept = (home.datasets, home.teachers, home.downloads, home.knowledge, home.images, home.runs, home.sweeps)
    return any(place.is_relative_to(folder.resolve()) for folder in kept) or (is_there and place.parent == root)
