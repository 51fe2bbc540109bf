"""SVHN: 99,289 colour images of house numbers' digits, 32x32 pixels (Netzer et al., NIPS workshop 2011)."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tekapctl.data.files import count_levels, normalisation
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.source import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError
from tekapctl.extras import require
from tekapctl.store.download import Report, download, silent

MOST_BYTES = 512 * 2**20


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
        folder = downloads / self.name
        for part in ("train", "test"):
            address, name, md5 = datasets.SVHN.split_list[part]
            target = folder / name
            if force or source:
                target.unlink(missing_ok=True)
            where = f"{source.rstrip('/')}/{name}" if source else address
            download([where], target, most_bytes=MOST_BYTES, report=report)
            if source is None:
                check_md5(target, md5)
        splits = self.load(downloads, offline=True)
        return f"{len(splits.train) + len(splits.test):,} images at {folder}"
