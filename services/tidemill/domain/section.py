"""What every part of the pipeline file is made of."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


def _in_64_bits(value: object) -> object:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError("the number does not fit 64 bits")
    return value


Scalar = Annotated[str | int | float | bool, BeforeValidator(_in_64_bits)]
"""A value of a key that may hold any kind; a large integer is refused rather than rounded to a float."""

MOST_RECORDS = 1_000_000_000_000
"""A bound for counts of records and keys, far above any real one and far below what an int64 or a float64 holds."""


class Section(BaseModel):
    """A part of the pipeline file: immutable, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
