"""What users write as the name of a dataset: `NAME`, or `NAME:LOCATION` where it declares a `field_after_colon`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tekapctl.data.spec import DATASETS, DataSpec
from tekapctl.errors import UsageError


def data_spec(values: str | Mapping[str, Any]) -> DataSpec:
    """The settings of a dataset, from its name or from a table with a `name`.

    Raises:
        UsageError: There is no such dataset.
        ValidationError: A field of the table is not valid.
    """
    if not isinstance(values, str):
        table = {**values, **spelled_out(str(values.get("name")))}
        return DATASETS[str(table["name"])].model_validate(table)
    table = spelled_out(values)
    check_names_no_folder(values)
    try:
        return DATASETS[table["name"]].model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UsageError(f"{values!r} is not a dataset: {problem}.", "`tekapctl fetch --list` lists them.") from None


def check_names_no_folder(name: str) -> None:
    """Refuse the path of a folder in place of a dataset's name.

    Raises:
        UsageError: There is such a folder, and no such dataset.
    """
    if name not in DATASETS and ":" not in name and Path(name).is_dir():
        raise UsageError(f"There is no dataset named {name!r}.", f"Did you mean the folder of images folder:{name}?")


def spelled_out(name: str) -> dict[str, str]:
    """The fields in a name: `folder:PATH` is the dataset `folder` with the field `folder`.

    A name that is unknown, or in which nothing may follow a colon, is the only field. A user's `module:Name` is not
    imported.
    """
    kind, colon, rest = name.partition(":")
    found = built_in(kind)
    field = None if found is None else found.field_after_colon
    return {"name": kind, field: rest} if colon and field is not None else {"name": name}


def built_in(name: str) -> type[DataSpec] | None:
    """The dataset of this package that a name begins with, whatever follows a colon; None for unknown names."""
    kind = name.partition(":")[0]
    if kind not in DATASETS:
        return None
    return DATASETS[kind]


def needs_location(name: str) -> bool:
    """Whether a name is of a dataset of this package whose images are wherever the user says."""
    found = built_in(name)
    return found is not None and found.needs_location
