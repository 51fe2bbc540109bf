"""ImageNet (ILSVRC 2012): 1.28 million photographs in 1,000 classes (Russakovsky et al., IJCV 2015)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.files.listing import Listing, images_under
from tekapctl.data.image_files import ImageFilesSpec, Mean, Std
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.errors import UsageError


@DATASETS.register("imagenet")
class ImageNet(ImageFilesSpec):
    """A folder that holds train/WNID and val/WNID, the usual layout; its licence does not allow automatic downloads.

    Classes are sorted by WordNet id, as in torchvision and timm.
    """

    name: Literal["imagenet"] = "imagenet"
    field_after_colon: ClassVar[str | None] = "folder"
    hub_id: ClassVar[str | None] = "ILSVRC/imagenet-1k"
    from_teacher: ClassVar[Mapping[str, Any]] = {**ImageFilesSpec.from_teacher, "size": 224}
    augmentation: Literal["crop-flip", "resized-crop"] = "resized-crop"
    mean: tuple[Mean, ...] | None = (0.485, 0.456, 0.406)
    std: tuple[Std, ...] | None = (0.229, 0.224, 0.225)

    def shape(self, downloads: Path) -> Shape:
        """Counted in its folder if it is set; else the published numbers."""
        return (
            super().shape(downloads)
            if self.folder is not None
            else Shape(1_281_167, 50_000, 1000, self.image_channels, self.image_size, self.image_size)
        )

    def listing(self, downloads: Path) -> Listing:
        folder = Path(self.absolute_folder or downloads / self.name)
        if not (folder / "train").is_dir() or not (folder / "val").is_dir():
            raise UsageError(
                f"{folder} does not hold ImageNet's folders train and val.",
                "Unpack the archives of image-net.org into train/WNID and val/WNID, and write imagenet:PATH.",
            )
        return _list(folder)

    def published_files(self) -> Sequence[PublishedFile]:
        """Refuse: it cannot be downloaded automatically.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "ImageNet must be downloaded from image-net.org after agreeing to its terms.",
            "Unpack it into train/WNID and val/WNID, and write `data=imagenet:PATH`.",
        )


@lru_cache(maxsize=2)
def _list(folder: Path) -> Listing:
    inner = (folder / "train").iterdir()
    ids = sorted(path.name for path in inner if path.is_dir() and not path.name.startswith("."))
    sets = [
        tuple((path, number) for number, wnid in enumerate(ids) for path in images_under(folder / part / wnid))
        for part in ("train", "val")
    ]
    if len(ids) < 2 or not all(sets):
        raise UsageError(f"{folder} has no images in train/WNID and val/WNID.", "Unpack the archives there.")
    return Listing(tuple(ids), sets[0], sets[1])
