"""What all fetched data sets have in common: each is replaced when its successor is complete and can be read."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tekapctl.data.spec import DataSpec, has_md5
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_folder, delete, filling


def fetch_whole(
    folder: Path,
    fill: Callable[[Path, Path], None],
    describe: Callable[[Path], str],
    *,
    anew: bool,
    published: Mapping[str, str] | None = None,
) -> str:
    """Make a data set's folder, unless it is there and whole; returns what is there, for the user.

    Args:
        folder: Its place. What is there stays until the new one is complete and was read.
        fill: Writes the data set's files into a new folder; a second one is for parts of downloads, which stay where
            they broke off.
        describe: Reads the data set in a folder, and says how large it is.
        anew: Although it is there.
        published: The MD5 of its files; if it is there and differs, the user is told so.

    Raises:
        UsageError: What came is not the data set.
        TekapctlError: It could not be had, or not be written.
    """
    parts = folder.with_name(f".{folder.name}.parts")
    with filling(folder):
        if not anew and folder.is_dir():
            try:
                found = f"{describe(folder)} at {folder}{_difference(folder, published or {})}"
            except TekapctlError:
                pass  # it is damaged
            else:
                delete(parts)
                return found
        with atomic_folder(folder) as stage:
            new = stage / folder.name
            try:
                new.mkdir()
                fill(new, parts)
                found = describe(new)
            except UsageError as error:
                raise _explained(error, new, folder) from None
        delete(parts)
    return f"{found} at {folder}"


def count_images(spec: DataSpec, folder: Path) -> str:
    """How many images a data set has in a folder, for the user; all of them are read."""
    splits = spec.model_copy(update={"folder": str(folder)}).load(folder.parent, offline=True)
    return f"{len(splits.train) + len(splits.test):,} images"


def _difference(folder: Path, published: Mapping[str, str]) -> str:
    differ = [name for name, md5 in published.items() if (folder / name).is_file() and not has_md5(folder / name, md5)]
    return ", which is not the published one: --force replaces it" if differ else ""


def _explained(error: UsageError, new: Path, folder: Path) -> UsageError:
    """The error without the place that nobody finds any more, and with what is still there."""
    problem = error.problem.replace(f"{new}/", "").replace(str(new), folder.name)
    kept = f" {folder} stays as it is." if folder.exists() else ""
    return type(error)(problem + kept, error.remedy)
