"""Files of a test in place of published ones, in a process of the program."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StandIns:
    """What a process of the program is told before it starts.

    It is apart from the tests that use it: the process need not import these.

    Attributes:
        folder: Where the program works.
        sums: MD5 checksums of each dataset's files.
        digests: SHA-256 checksums of published teachers.
    """

    folder: Path
    sums: dict[str, tuple[str, ...]]
    digests: dict[str, str]

    def __call__(self) -> None:
        """Go to the folder, and let the program take these files for the published ones."""
        from tekapctl.data import DATASETS
        from tekapctl.models import pretrained

        os.chdir(self.folder)
        for name, sums in self.sums.items():
            spec: Any = DATASETS[name]
            files = zip(spec.published, sums, strict=True)
            spec.published = tuple(replace(file, md5=own) for file, own in files)
        for name, digest in self.digests.items():
            pretrained.CATALOGUE[name] = replace(pretrained.CATALOGUE[name], digest=digest)
