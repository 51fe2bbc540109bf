"""The images of a folder with a folder for each class, and their split where there is no folder of test images."""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.data.files.folders import Listing, count, few, images_under
from tekapctl.errors import UsageError

_TEST_FOLDERS = ("test", "val", "validation", "valid")


_known: dict[tuple[Path, float, int], tuple[Listing, dict[Path, int]]] = {}
"""Listings, each with when its folders were changed last."""


def list_images(folder: Path, test_share: float, seed: int) -> Listing:
    """The images under a folder; listed once while nothing is added to it or taken from it.

    Raises:
        UsageError: The folder is not there, or holds no folders of images.
    """
    key = (folder, test_share, seed)
    if key in _known:
        listing, changed = _known[key]
        if changed == _last_changes(changed):
            return listing
    listing = _listed(folder, test_share, seed)
    holding = {path.parent for path, _ in (*listing.train, *listing.test)}
    inner = {each for path in holding for each in (path, *path.parents) if each.is_relative_to(folder)}
    _known[key] = listing, _last_changes({folder, *inner})
    return listing


def _last_changes(folders: Iterable[Path]) -> dict[Path, int]:
    return {folder: folder.stat().st_mtime_ns if folder.is_dir() else -1 for folder in folders}


def _listed(folder: Path, test_share: float, seed: int) -> Listing:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.", "Write it as --dataset folder:PATH.")
    train = folder / "train"
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    root = train if train.is_dir() else folder
    inner = sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".") and not root.is_relative_to(path.resolve())
    )
    if root is folder and test is not None:
        raise UsageError(f"{folder} has the folder {test.name} and none named train.", "Add train/CLASS/IMAGES.")
    by_class = {path.name: images_under(path) for path in inner}
    empty = [name for name, files in by_class.items() if not files]
    if len(by_class) < 2 or empty:
        what = f"no images in {', '.join(empty[:3])}" if empty else f"{count(by_class, 'folder')} of classes"
        raise UsageError(
            f"{root} has {what}.", f"Put each class's images ({' '.join(SUFFIXES)}) into a folder of its name."
        )
    classes = tuple(by_class)
    numbered = {name: number for number, name in enumerate(classes)}
    if root is train and test is not None:
        unknown = [p.name for p in sorted(test.iterdir()) if p.is_dir() and p.name not in numbered and images_under(p)]
        if unknown:
            raise UsageError(f"{test} has classes that {train} has not: {', '.join(unknown[:3])}.", "Add them.")
        tested = [(f, numbered[name]) for name in classes if (test / name).is_dir() for f in images_under(test / name)]
        if not tested:
            raise UsageError(f"{test} has no images in folders of classes.", "Add some, or remove it.")
        trained = [(f, numbered[name]) for name, files in by_class.items() for f in files]
        return Listing(classes, tuple(trained), tuple(tested))
    return _split(root, classes, by_class, test_share, seed)


def _split(
    root: Path, classes: tuple[str, ...], by_class: dict[str, list[Path]], test_share: float, seed: int
) -> Listing:
    """Each image in the training or the test set, by a hash of its name alone.

    Raises:
        UsageError: A class would have no training images, or the test set no images.
    """
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    untested = []
    for number, name in enumerate(classes):
        files = by_class[name]
        tested = [path for path in files if _hashed(path.relative_to(root), seed) < test_share]
        if len(tested) == len(files):
            raise UsageError(
                f"The split leaves the class {name} without training images: its {count(files, 'image')} would all be "
                "for testing.",
                "Add images to it, give --set data.split_seed=N, or make folders train/ and test/ of your own.",
            )
        if not tested:
            untested.append(name)
        test += [(path, number) for path in tested]
        chosen = set(tested)
        train += [(path, number) for path in files if path not in chosen]
    if not test:
        raise UsageError(
            f"The split leaves no image of {root} for testing.",
            "Add images, give --set data.split_seed=N, or make folders train/ and test/ of your own.",
        )
    notes = (f"no test images of {count(untested, 'class')}: {few(untested)}",) if untested else ()
    split = f"{test_share:.0%} for testing, chosen by a hash of their names (split_seed {seed})"
    return Listing(classes, tuple(train), tuple(test), notes, split)


def _hashed(name: Path, seed: int) -> float:
    """A number from 0 to 1 that a file's name and a seed decide."""
    digest = sha256(b"%d\0%s" % (seed, os.fsencode(name.as_posix()))).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
