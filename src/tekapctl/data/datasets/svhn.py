"""SVHN: 99,289 colour images of house numbers' digits, 32x32 pixels (Netzer et al., NIPS workshop 2011)."""

import io
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import count_images, fetch_whole
from tekapctl.data.files.folders import count_levels, normalisation
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError, require
from tekapctl.store.download import Report, download, file_in, published, silent

MOST_BYTES = 512 * 2**20
MOST_UNPACKED = 256 * 2**20
_NUMBERS = ("uint8", "uint16", "int16", "int32", "int64", "double")
_HEADER = 128
_COMPRESSED = 15
"""What MATLAB calls a compressed element."""
_PIECE = 1 << 20


@DATASETS.register("svhn")
class SVHN(DataSpec):
    """The cropped digits, without the extra training images; its MATLAB files need the extra `svhn`."""

    name: Literal["svhn"] = "svhn"
    padding: int = 4
    flip: bool = False

    def shape(self, downloads: Path) -> Shape:
        """73,257 training images and 26,032 test images."""
        return Shape(73_257, 26_032, 10, 3, 32, 32)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets."""
        names = ["train_32x32.mat", "test_32x32.mat"]
        folder = find_folder(self, downloads, names, "SVHN")
        (train, train_labels), (test, test_labels) = (self._part(folder / name) for name in names)
        mean, std = normalisation(count_levels(train))
        classes = tuple("0123456789")
        return Splits(
            ImageSet(train, train_labels, classes, mean, std), ImageSet(test, test_labels, classes, mean, std)
        )

    def _part(self, path: Path) -> tuple[Tensor, Tensor]:
        if not path.is_file():
            raise UsageError(f"The file {path.name} is missing in {path.parent}.", "Add it, or fetch the data set.")
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} is far larger than it should be.", "Fetch it anew.")
        matlab: Any = require("svhn", "scipy.io")
        try:
            _check_size(path)
            # What is no plain array may claim any number of elements.
            if any(kind not in _NUMBERS for name, _, kind in matlab.whosmat(path) if name in ("X", "y")):
                raise ValueError("X or y holds no numbers")
            found = matlab.loadmat(path, variable_names=["X", "y"])
            images = torch.from_numpy(found["X"]).permute(3, 2, 0, 1).contiguous()
            # The digit 0 is class 10 in the files.
            labels = torch.from_numpy(found["y"].astype("int64")).flatten() % 10
            return images, labels
        except Exception as error:  # whatever the reader of a damaged file trips over
            raise UsageError(f"The file {path} is damaged: {error}.", "Fetch it anew with --force.") from None

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download both files; those from a source of the user's own need no known checksum."""
        from torchvision import datasets

        require("svhn", "scipy.io")
        files = [datasets.SVHN.split_list[part] for part in ("train", "test")]

        def fill(folder: Path, parts: Path) -> None:
            for address, name, md5 in files:
                sources = [file_in(source, name)] if source else published(address)
                with download(sources, parts, name, most_bytes=MOST_BYTES, report=report) as file:
                    if source is None:
                        check_md5(file.path, md5)
                    file.place(folder / name)

        return fetch_whole(
            downloads / self.name,
            fill,
            partial(count_images, self),
            anew=force or source is not None,
            published={name: md5 for _, name, md5 in files},
        )


def _check_size(path: Path) -> None:
    """Refuse a file of MATLAB that unpacks to more than these have; the reader of such files does not look.

    Raises:
        ValueError: It does.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:
            raise ValueError("it is no MATLAB 5 file")
        left = MOST_UNPACKED
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            if kind == _COMPRESSED:
                left -= _unpacked_size(file, size, left)
            if left < 0:
                raise ValueError("it unpacks to far more than it should")
            file.seek(end)


def _unpacked_size(file: io.BufferedIOBase, size: int, most: int) -> int:
    """Bytes that compressed data unpacks to, or somewhat more than `most` if it is more."""
    reader, found = zlib.decompressobj(), 0
    while size > 0 and found <= most and not reader.eof:
        piece = file.read(min(size, _PIECE))
        if not piece:
            break
        size -= len(piece)
        while piece and found <= most:
            found += len(reader.decompress(piece, _PIECE))
            piece = reader.unconsumed_tail
    return found
