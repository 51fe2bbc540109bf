"""SVHN: 99,289 colour images of digits in house numbers, 32x32 pixels (Netzer et al., NIPS workshop 2011)."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.image_set import ImageSet, Splits, channel_statistics, histogram
from tekapctl.data.spec import DATASETS, DataSpec, Shape, find_folder
from tekapctl.errors import UsageError, require

MAX_BYTES = 512 * 2**20
MAX_UNPACKED = 256 * 2**20
_NUMBERS = ("uint8", "uint16", "int16", "int32", "int64", "double")
_HEADER = 128
_COMPRESSED = 15
"""MATLAB's number for a compressed element."""
_PIECE = 1 << 20


@DATASETS.register("svhn")
class SVHN(DataSpec):
    """The cropped digits without the `extra` split; reading its MATLAB files needs the extra `svhn`."""

    name: Literal["svhn"] = "svhn"
    padding: int = 4
    flip: bool = False

    def shape(self, downloads: Path) -> Shape:
        """73,257 training images and 26,032 test images."""
        return Shape(73_257, 26_032, 10, 3, 32, 32)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets."""
        names = ["train_32x32.mat", "test_32x32.mat"]
        folder = find_folder(self, downloads, names, "SVHN")
        (train, train_labels), (test, test_labels) = (self._part(folder / name) for name in names)
        mean, std = channel_statistics(histogram(train))
        classes = tuple("0123456789")
        return Splits(
            ImageSet(train, train_labels, classes, mean, std), ImageSet(test, test_labels, classes, mean, std)
        )

    def _part(self, path: Path) -> tuple[Tensor, Tensor]:
        if not path.is_file():
            raise UsageError(f"The file {path.name} is missing in {path.parent}.", "Add it, or fetch the data set.")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than expected.", "Fetch it again.")
        matlab: Any = require("svhn", "scipy.io")
        try:
            _check_size(path)
            # Elements other than plain arrays may claim any size.
            if any(kind not in _NUMBERS for name, _, kind in matlab.whosmat(path) if name in ("X", "y")):
                raise ValueError("X or y is not an array of numbers")
            found = matlab.loadmat(path, variable_names=["X", "y"])
            images = torch.from_numpy(found["X"]).permute(3, 2, 0, 1).contiguous()
            # The digit 0 is class 10 in the files.
            labels = torch.from_numpy(found["y"].astype("int64")).flatten() % 10
            return images, labels
        except Exception as error:  # damaged files can raise anything
            raise UsageError(f"The file {path} is damaged: {error}.", "Fetch it again with --force.") from None

    def published_files(self) -> Sequence[PublishedFile]:
        """Both files."""
        from torchvision import datasets

        require("svhn", "scipy.io")
        files = [datasets.SVHN.split_list[part] for part in ("train", "test")]
        return [PublishedFile(name, [address], MAX_BYTES, md5) for address, name, md5 in files]


def _check_size(path: Path) -> None:
    """Refuse a MATLAB file that unpacks to more than the published ones; SciPy does not check.

    Raises:
        ValueError: The file does, or it is not a MATLAB 5 file.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
        if order is None:
            raise ValueError("it is not a MATLAB 5 file")
        left = MAX_UNPACKED
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            if kind == _COMPRESSED:
                left -= _unpacked_size(file, size, left)
            if left < 0:
                raise ValueError("it unpacks to more than expected")
            file.seek(end)


def _unpacked_size(file: io.BufferedIOBase, size: int, limit: int) -> int:
    """The number of bytes that compressed data unpacks to; counting stops soon after `limit`."""
    reader, found = zlib.decompressobj(), 0
    while size > 0 and found <= limit and not reader.eof:
        piece = file.read(min(size, _PIECE))
        if not piece:
            break
        size -= len(piece)
        while piece and found <= limit:
            found += len(reader.decompress(piece, _PIECE))
            piece = reader.unconsumed_tail
    return found
