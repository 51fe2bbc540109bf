"""Settings: frozen pydantic models, and the types of their fields."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tekapctl.errors import UsageError
from tekapctl.registry import Registry


class Settings(BaseModel):
    """A frozen part of a run spec that refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Weight = Annotated[float, Field(ge=0, le=1e6)]
"""Of a loss, or of what goes into one: beyond a million nothing trains, and float32 overflows."""
Temperature = Annotated[float, Field(ge=1e-3, le=1e4)]
"""Of a softmax: losses have its square."""
Epochs = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of epochs, which may be 0."""


def chosen_by_name(
    registry: Registry[Any],
    default: str | None = None,
    *,
    spelled_out: Callable[[str], Mapping[str, Any]] | None = None,
) -> BeforeValidator:
    """Turns a name, a table with a `name`, or ready settings into the registered settings of that name.

    Args:
        registry: Settings by name.
        default: The name of a table without one.
        spelled_out: Returns the fields that a name stands for, where a name may hold more than one.
    """

    def choose(value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if default is not None and isinstance(value, Mapping):
            value = {"name": default, **value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"write the {registry.kind} as a name, or as a table with a name")
        if spelled_out is not None:
            value = {**value, **spelled_out(value["name"])}
        try:
            return registry[value["name"]].model_validate(value)
        except UsageError as error:
            remedy = error.remedy.rstrip(".")
            raise ValueError(f"{error.problem.rstrip('.')} ({remedy[:1].lower()}{remedy[1:]})") from None

    return BeforeValidator(choose)


def flat_items(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a nested table by their dotted paths."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat_items(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
