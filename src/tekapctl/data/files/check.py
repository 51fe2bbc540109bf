"""Checks the images of a folder before training: sizes, classes, copies, and files that cannot be read."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tekapctl.data.files.decoding import FORMATS, DamagedImageError, decode
from tekapctl.data.files.listing import Listing, count, few
from tekapctl.distributed.communicator import processors

_SIZE = (32, 32)
"""Images are decoded at this size, which for a JPEG is several times as fast."""
_IMBALANCE = 10
"""A class with this many times fewer training images than the largest one is worth a note."""
_FEW = 10
"""So is a class with fewer training images."""


@dataclass(frozen=True)
class FolderCheck:
    """What is known about the images of a folder. Files are named below their common folder.

    Attributes:
        train: Number of training images of each class, by class name.
        test: Number of test images of each class.
        smallest: Width and height in pixels of the image with the fewest pixels.
        median: Median width and median height.
        largest: Width and height of the image with the most pixels.
        formats: Number of files of each format.
        copies: Groups of files with the same content, training files first.
        leaked: Test files whose content is that of a training file.
        relabelled: Groups of files with the same content in different classes.
        unreadable: Files that cannot be read, with the reason.
        empty: Class folders without images.
    """

    train: dict[str, int]
    test: dict[str, int]
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    formats: dict[str, int]
    copies: tuple[tuple[str, ...], ...]
    leaked: tuple[str, ...]
    relabelled: tuple[tuple[str, ...], ...]
    unreadable: tuple[tuple[str, str], ...]
    empty: tuple[str, ...] = ()

    @property
    def imbalance(self) -> float:
        """Training images of the largest class, as a multiple of those of the smallest one."""
        return max(self.train.values()) / max(1, min(self.train.values()))

    @property
    def problems(self) -> list[str]:
        """What should be mended before training, a sentence each."""
        found = []
        if self.empty:
            found.append(
                f"{count(self.empty, 'class folder')} without images: {few(self.empty)}; add some, or remove it"
            )
        if self.unreadable:
            paths = [path for path, _ in self.unreadable]
            found.append(f"{count(paths, 'file')} cannot be read: {few(paths)}; replace or remove them")
        if self.relabelled:
            pairs = [" = ".join(group[:2]) for group in self.relabelled]
            found.append(f"{count(pairs, 'image')} in two classes: {few(pairs)}; remove the wrong one")
        if self.leaked:
            found.append(
                f"{count(self.leaked, 'test image')} also in the training set: {few(self.leaked)}; remove the copies, "
                "or the test accuracy is too high"
            )
        if untested := [name for name, images in self.test.items() if not images]:
            found.append(f"{count(untested, 'class')} without test images: {few(untested)}")
        least = min(self.train, key=lambda name: self.train[name])
        if self.train[least] < _FEW:
            few_classes = [name for name, images in self.train.items() if images < _FEW]
            found.append(f"{count(few_classes, 'class')} with fewer than {_FEW} training images: {few(few_classes)}")
        elif self.imbalance >= _IMBALANCE:
            most = max(self.train, key=lambda name: self.train[name])
            found.append(
                f"imbalanced: {self.train[most]:,} training images of {most}, {self.train[least]:,} of {least}"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self), "unreadable": dict(self.unreadable), "problems": self.problems}


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: int
    is_test: bool
    bytes: int
    size: tuple[int, int] | None
    format: str | None
    problem: str | None


def check_images(listing: Listing, report: Callable[[int, int], None] = lambda done, total: None) -> FolderCheck:
    """Read all image files of a listing once.

    Args:
        listing: The files.
        report: Called with the number of files read so far, and of all files.
    """
    parts = ((listing.train, False), (listing.test, True))
    root = os.path.commonpath([path.parent for part, _ in parts for path, _ in part])
    if len(listing.classes) == 1:
        root = os.path.dirname(root)  # noqa: PTH120
    wanted = [(path, os.path.relpath(path, root), label, is_test) for part, is_test in parts for path, label in part]
    files: list[_File] = []
    with ThreadPoolExecutor(processors()) as pool:
        for each in pool.map(_read, wanted):
            files.append(each)
            report(len(files), len(wanted))
    copies = _copies(files)
    sizes = sorted((each.size for each in files if each.size is not None), key=lambda size: size[0] * size[1])
    sizes = sizes or [(0, 0)]
    by_side = [sorted(side) for side in zip(*sizes, strict=True)]
    counts = [Counter(each.label for each in files if each.is_test is is_test) for is_test in (False, True)]
    train, test = ({name: counted[number] for number, name in enumerate(listing.classes)} for counted in counts)
    mixed = [group for group in copies if {each.is_test for each in group} == {False, True}]
    return FolderCheck(
        train,
        test,
        smallest=sizes[0],
        median=(by_side[0][len(sizes) // 2], by_side[1][len(sizes) // 2]),
        largest=sizes[-1],
        formats=dict(Counter(each.format for each in files if each.format is not None).most_common()),
        copies=tuple(_names(group) for group in copies),
        leaked=tuple(each.name for group in mixed for each in group if each.is_test),
        relabelled=tuple(_names(group) for group in copies if len({each.label for each in group}) > 1),
        unreadable=tuple((each.name, each.problem) for each in files if each.problem is not None),
        empty=listing.empty,
    )


def _read(wanted: tuple[Path, str, int, bool]) -> _File:
    from PIL import Image

    path, name, label, is_test = wanted
    size = kind = problem = None
    try:
        with Image.open(path, formats=tuple(FORMATS)) as opened:
            size, kind = opened.size, opened.format
        decode(path, 3, _SIZE)
    except (DamagedImageError, OSError, ValueError, SyntaxError) as error:
        problem = str(error)
    except Exception as error:  # damaged files make Pillow raise almost anything
        problem = type(error).__name__
    length = path.stat().st_size if path.exists() else 0
    return _File(path, name, label, is_test, length, size, kind, problem)


def _copies(files: Iterable[_File]) -> list[list[_File]]:
    """Groups of two or more readable files with the same bytes; only files of equal length are read."""
    by_length: defaultdict[int, list[_File]] = defaultdict(list)
    for each in files:
        if each.problem is None:
            by_length[each.bytes].append(each)
    by_content: defaultdict[bytes, list[_File]] = defaultdict(list)
    for same in by_length.values():
        if len(same) > 1:
            for each in same:
                by_content[sha256(each.path.read_bytes()).digest()].append(each)
    return [group for group in by_content.values() if len(group) > 1]


def _names(group: Iterable[_File]) -> tuple[str, ...]:
    return tuple(each.name for each in group)
