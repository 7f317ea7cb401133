"""The part of pyarrow that Tidemill uses; the package ships no types."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

class Array: ...

class Table:
    num_rows: int
    column_names: list[str]
    def to_pydict(self) -> dict[str, list[Any]]: ...

class Buffer:
    def to_pybytes(self) -> bytes: ...

class NativeFile: ...

class BufferOutputStream(NativeFile):
    def getvalue(self) -> Buffer: ...

def array(obj: npt.NDArray[Any], *, mask: npt.NDArray[Any] | None = None, from_pandas: bool | None = None) -> Array: ...
def table(data: Mapping[str, Any]) -> Table: ...
