"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels (Krizhevsky, 2009)."""

import io
import pickle
import pickletools
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.in_memory import InMemorySpec, Part, reading, refusing_damage
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.store.archive import wanted

MAX_ARCHIVE = 512 * 2**20
MAX_FILE = 256 * 2**20
MAX_OPCODES = 2_000_000


class CIFAR(InMemorySpec):
    """The two CIFAR datasets, read from the archive or from its unpacked files."""

    padding: int = 4
    flip: bool = True
    train_files: ClassVar[tuple[str, ...]]
    other_files: ClassVar[tuple[str, str]]
    """The test file and the file with the class names."""
    prefix: ClassVar[str]
    """Of the keys for labels and their names."""

    def read(self, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
        needed, archive = [*self.train_files, *self.other_files], folder / self.published[0].name
        if not (folder / needed[0]).is_file() and archive.is_file():
            content = _from_archive(archive, self.inner, needed)
        else:
            content = {name: _from_folder(folder / name) for name in needed}
        test, meta = (content[name] for name in self.other_files)
        train = [content[name] for name in self.train_files]
        return self._part(train), self._part([test]), _names(meta[f"{self.prefix}label_names"])

    def _part(self, batches: list[dict[str, Any]]) -> Part:
        pixels = np.concatenate([_pixels(batch["data"]) for batch in batches])
        labels = np.concatenate([_labels(batch[f"{self.prefix}labels"]) for batch in batches])
        return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels)


def _published(name: str, md5: str) -> tuple[PublishedFile, ...]:
    return (PublishedFile(name, [f"https://www.cs.toronto.edu/~kriz/{name}"], MAX_ARCHIVE, md5),)


@DATASETS.register("cifar10")
class CIFAR10(CIFAR):
    """Ten classes."""

    name: Literal["cifar10"] = "cifar10"
    hub_id: ClassVar = "uoft-cs/cifar10"
    published: ClassVar = _published("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    published_shape: ClassVar = Shape(50_000, 10_000, 10, 3, 32, 32)
    inner: ClassVar = "cifar-10-batches-py"
    train_files: ClassVar = tuple(f"data_batch_{number}" for number in range(1, 6))
    other_files: ClassVar = ("test_batch", "batches.meta")
    file_names: ClassVar = (*train_files, *other_files, published[0].name)
    prefix: ClassVar = ""
    mean: ClassVar = (0.4914, 0.4822, 0.4465)
    std: ClassVar = (0.2470, 0.2435, 0.2616)


@DATASETS.register("cifar100")
class CIFAR100(CIFAR):
    """A hundred classes."""

    name: Literal["cifar100"] = "cifar100"
    hub_id: ClassVar = "uoft-cs/cifar100"
    published: ClassVar = _published("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
    published_shape: ClassVar = Shape(50_000, 10_000, 100, 3, 32, 32)
    inner: ClassVar = "cifar-100-python"
    train_files: ClassVar = ("train",)
    other_files: ClassVar = ("test", "meta")
    file_names: ClassVar = (*train_files, *other_files, published[0].name)
    prefix: ClassVar = "fine_"
    mean: ClassVar = (0.5071, 0.4867, 0.4408)
    std: ClassVar = (0.2675, 0.2565, 0.2761)


def _pixels(found: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8:
        raise ValueError("its pixels are not an array of bytes")
    return found


def _labels(found: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    is_flat = found.ndim == 1 if isinstance(found, np.ndarray) else all(isinstance(value, int) for value in found)
    if not is_flat:
        raise ValueError("its labels are not a list of numbers")
    return np.asarray(found, dtype=np.int64)


def _names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("its class names are not a list of strings")
    return tuple(found)


def _check_pickle(content: bytes) -> None:
    """Refuse pickles that need far more memory than their size."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count > MAX_OPCODES:
            raise pickle.UnpicklingError("it has too many opcodes")
        # The unpickler's memo is as long as its largest index.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count + 1:
            raise pickle.UnpicklingError("its memo has gaps")


class _Type:
    """A dtype in a pickle."""

    _KNOWN: ClassVar[dict[str, str]] = {"u1": "u1", "i4": "<i4", "i8": "<i8"}

    def __init__(self, name: object) -> None:
        if not isinstance(name, str) or name not in self._KNOWN:
            raise pickle.UnpicklingError("an array has an unexpected dtype")
        self.plain = np.dtype(self._KNOWN[name])

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise pickle.UnpicklingError("an array has an unexpected byte order")


class _Array:
    """An array in a pickle, built from the bytes that are there rather than from the shape that is claimed."""

    plain: np.ndarray[Any, Any]

    def __init__(self, reader: "_ArraysOnly") -> None:
        self._reader = reader

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, in_columns, content = state
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array is malformed")
        if isinstance(content, str):
            content = self._reader.encode(content)
        self.plain = np.frombuffer(content, kind.plain).reshape(shape, order="F" if in_columns else "C")


class _ArraysOnly(pickle.Unpickler):
    """Reads plain values and arrays, which is all that the published files hold, and refuses everything else.

    The pickle gets no function of NumPy, with which it could make arrays of any size.
    """

    _MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": lambda *_: _Array(self), "ndarray": "ndarray", "dtype": lambda name, *_: _Type(name)}
        if (module, name) == ("_codecs", "encode"):
            return lambda text, *_: self.encode(text)
        if module not in self._MODULES or name not in known:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return known[name]

    def encode(self, text: str) -> bytes:
        """The bytes of a latin-1 text; together they may not exceed the size of the file."""
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("it unpacks to more than its size")
        return text.encode("latin1")


def _unpickle(content: bytes, where: str) -> dict[str, Any]:
    with refusing_damage(f"The file {where} is"):
        _check_pickle(content)
        found = _ArraysOnly(content).load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("it holds no dictionary")
        return {key: getattr(value, "plain", value) for key, value in found.items()}


def _from_folder(path: Path) -> dict[str, Any]:
    with reading(path, MAX_FILE):
        return _unpickle(path.read_bytes(), str(path))


def _from_archive(archive: Path, inner: str, names: list[str]) -> dict[str, dict[str, Any]]:
    with closing(wanted(archive, {f"{inner}/{name}": MAX_FILE for name in names}, max_bytes=MAX_ARCHIVE)) as found:
        return {member.path.name: _unpickle(member.read(), f"{archive}:{member.path}") for member in found}
