"""Settings: frozen pydantic models, and the types of their fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A frozen part of a run spec that refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Weight = Annotated[float, Field(ge=0, le=1e6)]
"""Of a loss, or of what goes into one: beyond a million nothing trains, and float32 overflows."""


Temperature = Annotated[float, Field(ge=1e-3, le=1e4)]
"""Of a softmax: losses have its square."""


Epochs = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of epochs, which may be 0."""
