"""`tekapctl check`, and the same check in a few lines before a run on the user's own images."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import complete, console, options, progress
from tekapctl.cli.options import argument
from tekapctl.errors import UsageError
from tekapctl.store.home import Home

if TYPE_CHECKING:
    from tekapctl.data.files.check import FolderCheck

_MOST = 20_000
"""Images that are checked before each run; a larger folder is checked by `tekapctl check` alone."""
_CLASSES = 20


def check(
    dataset: Annotated[
        str, argument("DATASET", "folder:PATH, or another dataset of image files.", complete=complete.datasets)
    ],
    as_json: options.Json = False,
) -> None:
    """Check the images of a folder before training: classes, sizes, copies, damaged files.

    Exits with 1 if a class has no images, or if images cannot be read, are in two classes, or are in the training and
    the test set.

    Example: tekapctl check folder:photographs
    """
    from tekapctl.data import data_spec
    from tekapctl.data.files.check import check_images
    from tekapctl.data.image_files import ImageFilesSpec

    spec = data_spec(dataset)
    if not isinstance(spec, ImageFilesSpec):
        raise UsageError(f"{dataset} does not consist of image files.", "Name a folder of images as folder:PATH.")
    listing = spec.listing_to_check(Home.default().datasets)
    with progress.counting("images", "reading") as report:
        found = check_images(listing, report)
    if as_json:
        console.show_json(found.to_dict())
    else:
        console.show_fields(_fields(found, listing.split))
        classes = [
            {"class": name, "training>": f"{images:,}", "test>": f"{found.test[name]:,}"}
            for name, images in sorted(found.train.items(), key=lambda item: item[1])
        ]
        if len(classes) > _CLASSES:
            console.say(f"the {_CLASSES} smallest of {len(classes)} classes (--json prints all):")
        console.show_table("", classes[:_CLASSES])
        for problem in found.problems:
            console.show_text(f"warning: {console.printable(problem)}")
    if found.empty or found.unreadable or found.relabelled or found.leaked:
        raise typer.Exit(1)


def say_what_is_there(spec: Any) -> None:
    """Print a summary of the images before a run on the user's own, and what should be mended."""
    from tekapctl.data.files.check import check_images
    from tekapctl.data.image_files import ImageFilesSpec

    if not isinstance(spec.data, ImageFilesSpec) or not spec.data.needs_location:
        return
    listing = spec.data.listing(Home.default().datasets)
    total = len(listing.train) + len(listing.test)
    if total > _MOST:
        console.say(f"{total:,} images: `tekapctl check {spec.data.name}:{spec.data.folder}` checks them all")
        return
    found = check_images(listing)
    for name, value in _fields(found, listing.split).items():
        console.say(f"{name}: {value}")
    for problem in found.problems:
        console.say(f"warning: {problem}")
    if spec.kind == "teacher" and spec.data.size is None and 0 < max(found.largest) < spec.data.image_size:
        side = max(found.largest)
        size = spec.data.image_size
        console.say(f"warning: images of up to {side} pixels are enlarged to {size}: --set data.size={side} is faster")


def _fields(found: "FolderCheck", split: str) -> dict[str, str]:
    from tekapctl.data.files.listing import count

    train, test = sum(found.train.values()), sum(found.test.values())
    small, middle, large = (f"{width}x{height}" for width, height in (found.smallest, found.median, found.largest))
    sizes = small if small == large else f"{small} to {large} pixels, median {middle}"
    least, most = min(found.train.values()), max(found.train.values())
    per_class = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return {
        "images": f"{train:,} for training, {test:,} for testing; {split}",
        "classes": f"{len(found.train):,}, with {per_class} training images each",
        "sizes": f"{sizes} ({', '.join(found.formats) or 'none can be read'})",
        "copies": f"{count(found.copies, 'image')} more than once" if found.copies else "none",
    }
