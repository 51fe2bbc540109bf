"""The page of a network's most confident mistakes: one self-contained HTML file with their pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from PIL import Image

from tekapctl import __version__
from tekapctl.commands.mistakes import Mistake
from tekapctl.data.files.decoding import DamagedImageError, decode_whole
from tekapctl.report.page import render

_LARGEST = 320
"""Side of a picture on the page, in pixels."""
_SMALL = 96
"""Images below this are enlarged with visible pixels."""


@dataclass(frozen=True)
class _Picture:
    address: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        return max(self.width, self.height) < _SMALL


def page(mistakes: Sequence[Mistake], source: str, *, images: int, wrong: int) -> str:
    """The whole page, as HTML without external resources."""
    shown = [(each, _picture(each)) for each in mistakes]
    return render(
        "mistakes.html",
        title=f"Mistakes of {source}",
        images=f"{images:,}",
        wrong=f"{wrong:,}",
        share=f"{100 * wrong / max(1, images):.2f} %",
        count=len(shown),
        shown=shown,
        version=__version__,
        date=f"{datetime.now().astimezone():%Y-%m-%d}",
    )


def _picture(mistake: Mistake) -> _Picture | None:
    """A picture as a data address; None if its file cannot be read any more."""
    found = mistake.picture
    try:
        pixels = decode_whole(found, 3) if isinstance(found, Path) else found
    except DamagedImageError:
        return None
    image = Image.fromarray((pixels.permute(1, 2, 0) if pixels.shape[0] == 3 else pixels[0]).numpy())
    image.thumbnail((_LARGEST, _LARGEST))
    form, options = ("PNG", {}) if max(image.size) < _SMALL else ("JPEG", {"quality": 85})
    file = io.BytesIO()
    image.save(file, form, **options)
    text = base64.b64encode(file.getvalue()).decode()
    return _Picture(f"data:image/{form.lower()};base64,{text}", *image.size)
