"""SVHN: 99,289 colour images of digits in house numbers, 32x32 pixels (Netzer et al., NIPS workshop 2011)."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.in_memory import InMemorySpec, Part, reading
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.errors import require

MAX_BYTES = 512 * 2**20
MAX_UNPACKED = 256 * 2**20
_NUMBERS = ("uint8", "uint16", "int16", "int32", "int64", "double")
_HEADER = 128
_COMPRESSED = 15
"""MATLAB's number for a compressed element."""
_PIECE = 1 << 20
_FILES = {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"}


@DATASETS.register("svhn")
class SVHN(InMemorySpec):
    """The cropped digits without the `extra` split; reading its MATLAB files needs the extra `svhn`."""

    name: Literal["svhn"] = "svhn"
    hub_id: ClassVar = "ufldl-stanford/svhn"
    padding: int = 4
    flip: bool = False
    published: ClassVar = tuple(
        PublishedFile(name, [f"http://ufldl.stanford.edu/housenumbers/{name}"], MAX_BYTES, md5)
        for name, md5 in _FILES.items()
    )
    published_shape: ClassVar = Shape(73_257, 26_032, 10, 3, 32, 32)
    file_names: ClassVar = tuple(_FILES)
    inner: ClassVar = "SVHN"

    def read(self, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
        train, test = (_part(folder / name) for name in _FILES)
        return train, test, tuple("0123456789")

    def published_files(self) -> Sequence[PublishedFile]:
        """Both files; they are not fetched if they could not be read."""
        require("svhn", "scipy.io")
        return self.published


def _part(path: Path) -> Part:
    with reading(path, MAX_BYTES):
        matlab: Any = require("svhn", "scipy.io")
        _check_size(path)
        # Elements other than plain arrays may claim any size.
        if any(kind not in _NUMBERS for name, _, kind in matlab.whosmat(path) if name in ("X", "y")):
            raise ValueError("X or y is not an array of numbers")
        found = matlab.loadmat(path, variable_names=["X", "y"])
        images = torch.from_numpy(found["X"]).permute(3, 2, 0, 1).contiguous()
        # The digit 0 is class 10 in the files.
        return images, torch.from_numpy(found["y"].astype("int64")).flatten() % 10


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
