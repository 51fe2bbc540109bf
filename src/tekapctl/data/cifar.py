"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels (Krizhevsky, 2009)."""

import io
import pickle
import pickletools
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.source import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, download, silent

MOST_ARCHIVE = 512 * 2**20
MOST_FILE = 256 * 2**20


class CIFAR(DataSpec):
    """What both sets have in common."""

    padding: int = 4
    flip: bool = True

    inner: ClassVar[str]
    """Folder of the files in the published archive."""
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    meta_file: ClassVar[str]
    label_key: ClassVar[str]
    names_key: ClassVar[str]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets."""
        needed = [*self.train_files, self.test_file, self.meta_file]
        folder = find_folder(self, downloads, [*needed, f"{self.inner}.tar.gz"], self.inner)
        if not (folder / self.train_files[0]).is_file() and (folder / f"{self.inner}.tar.gz").is_file():
            content = _from_archive(folder / f"{self.inner}.tar.gz", self.inner, needed)
        else:
            content = {name: _from_folder(folder, name) for name in needed}
        try:
            classes = tuple(str(name) for name in content[self.meta_file][self.names_key])
            train = [content[name] for name in self.train_files]
            return Splits(self._part(train, classes), self._part([content[self.test_file]], classes))
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UsageError(f"The files in {folder} are damaged: {error}.", "Fetch them anew.") from None

    def _part(self, batches: list[dict[str, Any]], classes: tuple[str, ...]) -> ImageSet:
        pixels = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch[self.label_key], dtype=np.int64) for batch in batches])
        images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
        return ImageSet(images, torch.from_numpy(labels), classes, self.mean, self.std)

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the archive; one from a source of the user's own needs no known checksum."""
        from torchvision import datasets

        published = getattr(datasets, self.name.upper())
        folder = downloads / self.name
        target = folder / f"{self.inner}.tar.gz"
        if force or source:
            target.unlink(missing_ok=True)
        address = published.url if source is None else source
        if not address.endswith(".tar.gz"):
            address = f"{address.rstrip('/')}/{target.name}"
        download([address], target, most_bytes=MOST_ARCHIVE, report=report)
        if source is None:
            check_md5(target, published.tgz_md5)
        splits = self.load(downloads, offline=True)
        return f"{len(splits.train) + len(splits.test):,} images at {folder}"


@DATASETS.register("cifar10")
class CIFAR10(CIFAR):
    """Ten classes."""

    name: Literal["cifar10"] = "cifar10"
    inner: ClassVar[str] = "cifar-10-batches-py"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_file: ClassVar[str] = "test_batch"
    meta_file: ClassVar[str] = "batches.meta"
    label_key: ClassVar[str] = "labels"
    names_key: ClassVar[str] = "label_names"
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the archive, whose published name differs from its folder's."""
        if source is not None and not source.endswith(".tar.gz"):
            source = f"{source.rstrip('/')}/cifar-10-python.tar.gz"
        return super().fetch(downloads, force=force, source=source, report=report)

    def shape(self, downloads: Path) -> Shape:
        """50,000 training images and 10,000 test images."""
        return Shape(50_000, 10_000, 10, 3, 32, 32)


@DATASETS.register("cifar100")
class CIFAR100(CIFAR):
    """A hundred classes."""

    name: Literal["cifar100"] = "cifar100"
    inner: ClassVar[str] = "cifar-100-python"
    train_files: ClassVar[tuple[str, ...]] = ("train",)
    test_file: ClassVar[str] = "test"
    meta_file: ClassVar[str] = "meta"
    label_key: ClassVar[str] = "fine_labels"
    names_key: ClassVar[str] = "fine_label_names"
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4867, 0.4408)
    std: ClassVar[tuple[float, ...]] = (0.2675, 0.2565, 0.2761)

    def shape(self, downloads: Path) -> Shape:
        """50,000 training images and 10,000 test images."""
        return Shape(50_000, 10_000, 100, 3, 32, 32)


def _empty_array(kind: type, shape: tuple[int, ...], code: object) -> Any:
    """What pickled arrays are made from before they get their data; another shape would only take memory."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array is not made as arrays are")
    return np.ndarray((0,), dtype="b")


def _check_memo(content: bytes) -> None:
    """Refuse places in the reader's memo that only a hostile pickle has: it gets as long as the greatest."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count + 1:
            raise pickle.UnpicklingError("its memo has gaps")


class _ArraysOnly(pickle.Unpickler):
    """Reads what the published files hold, plain values and arrays, and refuses everything else."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        (module, name): value
        for name, value in (
            ("_reconstruct", _empty_array),
            ("ndarray", np.ndarray),
            ("dtype", np.dtype),
        )
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return self._ALLOWED[module, name]


def _unpickle(content: bytes, where: str) -> dict[str, Any]:
    try:
        _check_memo(content)
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever the reader of hostile bytes trips over, the file is to blame
        raise UsageError(f"The file {where} is damaged: {error}.", "Fetch it anew.") from None
    if not isinstance(found, dict):
        raise UsageError(f"The file {where} is damaged: it holds no table.", "Fetch it anew.")
    return found


def _from_folder(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UsageError(f"The file {name} is missing in {folder}.", "Add it, or fetch the data set.")
    if path.stat().st_size > MOST_FILE:
        raise UsageError(f"The file {path} is far larger than it should be.", "Fetch it anew.")
    return _unpickle(path.read_bytes(), str(path))


def _from_archive(archive: Path, inner: str, names: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(archive) as opened:
            for entry in opened:
                if entry.offset_data + entry.size > MOST_ARCHIVE:
                    raise UsageError(f"The archive {archive} is far larger than it should be.", "Fetch it anew.")
                path = PurePosixPath(entry.name)
                if path.parent != PurePosixPath(inner) or path.name not in names or not entry.isreg():
                    continue
                if entry.size > MOST_FILE:
                    raise UsageError(f"{entry.name} in {archive} is far larger than it should be.", "Fetch it anew.")
                file = opened.extractfile(entry)
                assert file is not None
                found[path.name] = _unpickle(file.read(), f"{archive}:{entry.name}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it anew with --force.") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"The archive {archive} has no {', '.join(missing)}.", "Fetch it anew with --force.")
    return found
