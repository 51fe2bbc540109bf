"""Uploads exported files to a repository of the Hugging Face hub."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tekapctl.commands.export.format import ExportSource
from tekapctl.errors import TekapctlError, UsageError, first_line, require
from tekapctl.logging import silence_libraries
from tekapctl.store.atomic import as_json

EXTRA = "hub"
_FAILED_REQUESTS = {"TransportError", "RequestException"}
"""Base classes of the errors of httpx and requests; which of them the hub's library uses depends on its version."""


class Hub:
    """A repository, `USER/NAME` or `NAME` for one's own, to which somebody is logged in.

    Nothing is created before the first upload.

    Raises:
        UsageError: The name is not valid, nobody is logged in, or the package huggingface_hub is missing.
        TekapctlError: The hub cannot be reached.
    """

    def __init__(self, repository: str, *, private: bool) -> None:
        with silence_libraries():
            self._library, self._utils, self._errors = (
                require(EXTRA, f"huggingface_hub{module}") for module in ("", ".utils", ".errors")
            )
        self._private = private
        try:
            self._utils.validate_repo_id(repository)
        except self._errors.HFValidationError:
            raise UsageError(
                f"{repository!r} is not the name of a repository.", "Write it as USER/NAME, such as ada/resnet8-digits."
            ) from None
        self._api = self._library.HfApi(os.environ.get("HF_ENDPOINT"), library_name="tekapctl")
        if self._library.get_token() is None:
            raise UsageError(
                "Nobody is logged in to the Hugging Face hub.", "Log in with `hf auth login`, or set HF_TOKEN."
            )
        with self._translating("look up who is logged in"):
            name = self._api.whoami()["name"]
        self.repository = repository if "/" in repository else f"{name}/{repository}"

    def upload(self, files: Sequence[tuple[Sequence[Path], Path]], source: ExportSource) -> str:
        """Upload files in one commit, creating the repository if it does not exist; returns its address.

        Args:
            files: The parts of each file, and its model card; the first card becomes the repository's.
            source: The network.

        Raises:
            TekapctlError: The hub refuses, or cannot be reached.
        """
        content: dict[str, Path | bytes] = {
            "README.md": files[0][1],
            "config.json": as_json(_config(source)),
            "preprocessor_config.json": as_json(_preprocessing(source)),
        }
        for parts, _ in files:
            for part in parts:
                inside = [part] if part.is_file() else [each for each in sorted(part.rglob("*")) if each.is_file()]
                content |= {each.relative_to(part.parent).as_posix(): each for each in inside}
        operations = [
            self._library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in content.items()
        ]
        with self._translating(f"upload to {self.repository}", done=True):
            self._api.create_repo(self.repository, private=self._private, exist_ok=True)
            found = self._api.create_commit(
                self.repository, operations, commit_message=f"Upload {source.trained.model} with tekapctl"
            )
        return str(found.repo_url)

    @contextmanager
    def _translating(self, what: str, *, done: bool = False) -> Iterator[None]:
        """Say what the hub refused; `done` is whether the files are exported already."""
        try:
            with silence_libraries(), _without_bars(self._utils):
                yield
        except Exception as error:
            reason = first_line(error)
            kept = " The exported files are kept." if done else ""
            if isinstance(error, self._errors.HfHubHTTPError):
                refused = error.response.status_code in (401, 403)
                raise TekapctlError(
                    f"The hub refused to {what}: {reason}.{kept}",
                    "Log in with `hf auth login`, with a token that may write."
                    if refused
                    else "Try again later; https://status.huggingface.co shows outages.",
                ) from error
            if isinstance(error, OSError) or _FAILED_REQUESTS & {each.__name__ for each in type(error).__mro__}:
                raise TekapctlError(
                    f"The hub could not be reached to {what}: {reason}.{kept}",
                    "Check the network; then upload the files with `hf upload`, or export again with `force`."
                    if done
                    else "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or leave out `push`.",
                ) from error
            raise


@contextmanager
def _without_bars(bars: Any) -> Iterator[None]:
    were_off = bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            bars.enable_progress_bars()


def _config(source: ExportSource) -> dict[str, Any]:
    """What the hub and other programs read of the network."""
    return {
        "architecture": source.trained.model,
        "library_name": "tekapctl",
        "num_classes": len(source.classes),
        "num_channels": source.channels,
        "id2label": {str(number): name for number, name in enumerate(source.classes)},
        "label2id": {name: number for number, name in enumerate(source.classes)},
    }


def _preprocessing(source: ExportSource) -> dict[str, Any]:
    """How images are prepared, in the words of Transformers' image processors; for files without preprocessing."""
    preprocessing = source.preprocessing
    height, width = preprocessing.size
    return {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "crop_pct": preprocessing.crop_fraction,
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
