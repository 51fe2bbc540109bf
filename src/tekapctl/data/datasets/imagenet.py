"""ImageNet (ILSVRC 2012): 1.28 million photographs in 1,000 classes (Russakovsky et al., IJCV 2015)."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from tekapctl.data.files.folders import Deviation, FileImages, Level, Listing, images_under
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, silent


@DATASETS.register("imagenet")
class ImageNet(FileImages):
    """A folder that holds train/WNID and val/WNID, as everyone unpacks it; its licence forbids to fetch it for you.

    Classes are in the order of their ids, which is that of torchvision's and timm's networks.
    """

    name: Literal["imagenet"] = "imagenet"
    agrees: ClassVar[Mapping[str, Any]] = {**FileImages.agrees, "size": 224}
    augmentation: Literal["crop-flip", "resized-crop"] = "resized-crop"
    mean: tuple[Level, ...] | None = (0.485, 0.456, 0.406)
    std: tuple[Deviation, ...] | None = (0.229, 0.224, 0.225)

    def shape(self, downloads: Path) -> Shape:
        """What its folder holds; the published numbers where there is none yet."""
        return (
            super().shape(downloads)
            if self.folder is not None
            else Shape(1_281_167, 50_000, 1000, self._channels, self.side, self.side)
        )

    def listing(self, downloads: Path) -> Listing:
        """The files in train and val."""
        folder = downloads / self.name if self.folder is None else Path(self.folder).expanduser().resolve()
        if not (folder / "train").is_dir() or not (folder / "val").is_dir():
            raise UsageError(
                f"{folder} has no folders train and val of ImageNet.",
                "Unpack the archives of image-net.org into train/WNID and val/WNID, and write imagenet:PATH.",
            )
        return _list(folder)

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Refused: there is no address to get it from.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "ImageNet has to be had from image-net.org by whoever agreed to its terms.",
            "Unpack it into train/WNID and val/WNID, and write --dataset imagenet:PATH.",
        )


@lru_cache(maxsize=2)
def _list(folder: Path) -> Listing:
    ids = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    sets = [
        tuple((path, number) for number, wnid in enumerate(ids) for path in images_under(folder / part / wnid))
        for part in ("train", "val")
    ]
    if len(ids) < 2 or not all(sets):
        raise UsageError(f"{folder} has no images in train/WNID and val/WNID.", "Unpack the archives there.")
    return Listing(tuple(ids), sets[0], sets[1])
