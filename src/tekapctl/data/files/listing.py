"""Lists the images of a folder with one subfolder per class, and splits them where there is no test folder."""

import json
import os
import stat
from collections.abc import Container, Iterable, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.errors import TekapctlError, UsageError, counted
from tekapctl.store.home import expand_user

_TEST_FOLDERS = ("test", "val", "validation", "valid")
_SHOWN = 3
_SAMPLED = 256
"""Files whose content is part of a fingerprint, at most."""
_SAMPLE_BYTES = 2**16
_REMEDY = f"Put the images of each class ({' '.join(SUFFIXES)}) into a folder named after it."


@dataclass(frozen=True)
class Listing:
    """The image files of a dataset with their class numbers, and the names of the classes.

    `notes` are what the user should know, `split` says how training and test images were separated, and `empty` are
    class folders without images, which are not among the classes.
    """

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]
    notes: tuple[str, ...] = ()
    split: str = "its own test set"
    empty: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names below their common folder, their sizes and classes, and the content of some.

        It does not change when the folder is moved or copied, or split differently.
        """
        files = sorted((os.fsencode(path), label) for path, label in (*self.train, *self.test))
        common = os.path.commonpath([os.path.dirname(path) for path, _ in files])  # noqa: PTH120 - bytes
        digest = sha256(json.dumps(self.classes).encode())
        for path, label in files:
            name = path[len(common) :]
            digest.update(b"%s\0%d\0%d\n" % (name, label, os.stat(path).st_size))  # noqa: PTH116
        digest.update(_content_of_some([path for path, _ in files]))
        return digest.hexdigest()


_cache: dict[tuple[Path, float, int], tuple[Listing, dict[Path, int]]] = {}
"""Listings, each with the modification times of its folders."""


def list_images(folder: Path, test_fraction: float, seed: int) -> Listing:
    """List the images of a folder; the result is cached until a file is added or removed.

    The folder holds train/CLASS and test/CLASS (or val/CLASS), or CLASS alone, which is then split.

    Raises:
        UsageError: The folder does not exist or has no class folders with images.
    """
    key = (folder, test_fraction, seed)
    if key in _cache:
        listing, times = _cache[key]
        if times == _modification_times(times):
            return listing
    listing = _list(folder, test_fraction, seed)
    parents = {path.parent for path, _ in (*listing.train, *listing.test)}
    inner = {each for path in parents for each in (path, *path.parents) if each.is_relative_to(folder)}
    _cache[key] = listing, _modification_times({folder, *inner})
    return listing


def without_empty_classes(listing: Listing, folder: Path) -> Listing:
    """The listing, in which every class folder has images.

    Raises:
        UsageError: One has none.
    """
    if listing.empty:
        raise UsageError(f"{folder} has no images in {few(listing.empty)}.", f"{_REMEDY} Or remove the empty folder.")
    return listing


def images_under(folder: Path) -> list[Path]:
    """All image files in a folder and its subfolders, sorted; hidden files and folders are left out.

    Links to folders are followed, as by torchvision's ImageFolder, but not back to a folder that they are in.

    Raises:
        TekapctlError: A folder cannot be read.
    """
    found = []
    try:
        for place, inner, names in os.walk(folder, onerror=_refuse, followlinks=True):
            # Hidden folders hold copies: .ipynb_checkpoints, .thumbnails.
            inner[:] = [name for name in inner if not (name.startswith(".") or leads_back(os.path.join(place, name)))]  # noqa: PTH118
            found += [Path(place, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    except OSError as error:
        raise TekapctlError(
            f"The folder {folder} cannot be read: {error.strerror}.", "Check its permissions."
        ) from None
    return sorted(found)


def leads_back(folder: str) -> bool:
    """Whether a path is a link to a folder that it is in, by way of other links or not."""
    path = Path(folder)
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in path.parents)


def _refuse(error: OSError) -> None:
    """Raise what `os.walk` would pass over, except that there is no such folder."""
    if not isinstance(error, FileNotFoundError):
        raise error


def unlabelled_files(folder: str | None) -> list[Path]:
    """The images of a folder of unlabelled images, in whatever subfolders; none for None.

    Raises:
        UsageError: There is no such folder, or it has no images.
    """
    if folder is None:
        return []
    place = expand_user(folder)
    if not place.is_dir():
        raise UsageError(f"There is no folder {folder!r} of unlabelled images.", "Name a folder with images.")
    if not (files := images_under(place)):
        raise UsageError(f"The folder {folder!r} has no images ({' '.join(SUFFIXES)}).", "Name a folder with images.")
    return files


def fingerprint_of_unlabelled(folder: str) -> str:
    """SHA-256 of the names below the folder and the sizes of its images, and the content of some."""
    place, files = expand_user(folder), unlabelled_files(folder)
    digest = sha256()
    for path in files:
        digest.update(b"%s\0%d\n" % (os.fsencode(path.relative_to(place)), path.stat().st_size))
    digest.update(_content_of_some([os.fsencode(path) for path in files]))
    return digest.hexdigest()


def _content_of_some(files: Sequence[bytes]) -> bytes:
    """SHA-256 of up to 64 KiB from the middle of at most 256 files, evenly spaced.

    Images without compression have the same size whatever they show, as in two versions of a dataset.
    """
    digest = sha256()
    for number in range(min(_SAMPLED, len(files))):
        path = files[number * len(files) // min(_SAMPLED, len(files))]
        # What cannot be read is reported when it is decoded.
        with suppress(OSError):
            found = os.stat(path)  # noqa: PTH116
            if stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:  # noqa: PTH123
                    file.seek(max(0, (found.st_size - _SAMPLE_BYTES) // 2))
                    digest.update(sha256(file.read(_SAMPLE_BYTES)).digest())
    return digest.digest()


def few(items: Iterable[object]) -> str:
    """The first items, separated by commas."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def count(items: Sized, noun: str) -> str:
    """The number of items with their noun, such as `2 classes`."""
    return counted(len(items), noun)


def _modification_times(folders: Iterable[Path]) -> dict[Path, int]:
    return {folder: folder.stat().st_mtime_ns if folder.is_dir() else -1 for folder in folders}


def _list(folder: Path, test_fraction: float, seed: int) -> Listing:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.", "Write the dataset as folder:PATH.")
    train = folder / "train"
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    root = train if train.is_dir() else folder
    inner = sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not root.is_relative_to(path.resolve())
    )
    if root is folder and test is not None:
        raise UsageError(f"{folder} has a folder {test.name} but no folder train.", "Add train/CLASS/IMAGES.")
    by_class = {path.name: images_under(path) for path in inner}
    empty = tuple(name for name, files in by_class.items() if not files)
    by_class = {name: files for name, files in by_class.items() if files}
    if len(by_class) < 2:
        found = f"{count(by_class, 'class folder')}{' with images' if empty else ''}"
        raise UsageError(f"{root} has {found}.", _REMEDY)
    numbers = {name: number for number, name in enumerate(by_class)}
    if root is folder or test is None:
        return replace(_split(root, by_class, test_fraction, seed), empty=empty)
    known = {*numbers, *empty}
    unknown = [p.name for p in sorted(test.iterdir()) if p.is_dir() and p.name not in known and images_under(p)]
    if unknown:
        raise UsageError(f"{test} has classes that {train} lacks: {few(unknown)}.", "Add them to train.")
    tested = [(f, numbers[name]) for name in numbers if (test / name).is_dir() for f in images_under(test / name)]
    if not tested:
        raise UsageError(f"{test} has no images in class folders.", "Add some, or remove the folder.")
    trained = [(f, numbers[name]) for name, files in by_class.items() for f in files]
    notes = _untested(tuple(numbers), {n for _, n in tested})
    return Listing(tuple(numbers), tuple(trained), tuple(tested), notes, empty=empty)


def _untested(classes: Sequence[str], tested: Container[int]) -> tuple[str, ...]:
    """A note that names the classes without test images, if there are any."""
    without = [name for number, name in enumerate(classes) if number not in tested]
    return (f"no test images of {count(without, 'class')}: {few(without)}",) if without else ()


def _split(root: Path, by_class: dict[str, list[Path]], test_fraction: float, seed: int) -> Listing:
    """Assign each image to the training or the test set by a hash of its name alone."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    remedy = "Add images, choose another data.split_seed, or make folders train and test yourself."
    for number, (name, files) in enumerate(by_class.items()):
        tested = {path for path in files if _hash(path.relative_to(root), seed) < test_fraction}
        if len(tested) == len(files):
            raise UsageError(
                f"The split leaves class {name} without training images: all of its {count(files, 'image')} would be "
                "test images.",
                remedy,
            )
        test += [(path, number) for path in files if path in tested]
        train += [(path, number) for path in files if path not in tested]
    if not test:
        raise UsageError(f"The split leaves no image of {root} for testing.", remedy)
    classes = tuple(by_class)
    split = f"{test_fraction:.0%} for testing, chosen by a hash of the file names (split_seed {seed})"
    return Listing(classes, tuple(train), tuple(test), _untested(classes, {label for _, label in test}), split)


def _hash(name: Path, seed: int) -> float:
    """A number in [0, 1) that depends on a file's name and the seed."""
    digest = sha256(b"%d\0%s" % (seed, os.fsencode(name.as_posix()))).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
