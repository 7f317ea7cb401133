"""Bytes of one record → a JSON object of a known version, or a `RecordError` that says what is wrong with them."""

import json
import math
from collections.abc import Sequence
from typing import Any

import orjson

from tidemill.ingest.core.faults import FieldError, shown


class _DuplicateKeyError(Exception):
    """A name that occurs twice in one object."""


class Decoder:
    """Reads records of one source. Pure; about 1.5 µs for a good record of 150 bytes.

    Codes: `oversize`, `not_json` (invalid UTF-8 included), `non_finite` (NaN, Infinity, 1e999), `not_an_object`,
    `duplicate_keys` (only when asked, it costs a second parse), `unknown_version`.
    """

    __slots__ = ("_max_bytes", "_version_field", "_versions", "refuses_duplicate_keys")

    def __init__(
        self,
        max_bytes: int,
        version_field: str | None,
        versions: Sequence[int],
        *,
        refuse_duplicate_keys: bool = False,
    ) -> None:
        self._max_bytes = max_bytes
        self._version_field = version_field
        self._versions = versions
        self.refuses_duplicate_keys = refuse_duplicate_keys

    def decode(self, raw: bytes | None) -> dict[str, Any]:
        """One record's object. Raises RecordError."""
        if raw is None:
            raise FieldError("not_json", None, "the record has no value (a tombstone)")
        self.check_size(len(raw))
        document = self.check_object(parse(raw))
        if self.refuses_duplicate_keys:
            refuse_duplicate_keys(raw)
        return document

    def check_size(self, size: int) -> None:
        """Raises RecordError `oversize` for a record of `size` bytes beyond the limit."""
        if size > self._max_bytes:
            raise FieldError("oversize", None, f"the record has {size} bytes; at most {self._max_bytes} are accepted")

    def check_object(self, document: object) -> dict[str, Any]:
        """`document` if it is an object of a known version. Raises RecordError."""
        if type(document) is not dict:
            raise FieldError("not_an_object", None, f"the record is {_kind(document)}, not an object")
        field = self._version_field
        if field is not None:
            version = document.get(field)
            # True == 1 and 1.0 == 1 in Python, but neither is a version.
            if type(version) is not int or version not in self._versions:
                found = f"is {shown(version)}" if field in document else "is missing"
                known = ", ".join(map(str, self._versions))
                raise FieldError("unknown_version", field, f"{field} {found}; known versions: {known}")
        return document


def parse(raw: bytes) -> object:
    """The JSON value in `raw`. Raises RecordError `not_json` or `non_finite`."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        cause = f"{error.msg} at character {error.pos}"
    if _holds_non_finite(raw):
        raise FieldError("non_finite", None, "the record holds NaN, Infinity or a number too large for a double")
    raise FieldError("not_json", None, f"the record is not JSON: {cause}")


def refuse_duplicate_keys(raw: bytes) -> None:
    """Raises RecordError `duplicate_keys` if an object in valid JSON names a field twice."""
    try:
        json.loads(raw.decode(), object_pairs_hook=_unique, parse_int=_nothing, parse_float=_nothing)
    except _DuplicateKeyError as duplicate:
        raise FieldError("duplicate_keys", str(duplicate), f"{shown(str(duplicate))} occurs twice") from None
    except RecursionError:
        raise FieldError("not_json", None, "the record is nested too deeply") from None


def _holds_non_finite(raw: bytes) -> bool:
    """Whether refused bytes are JSON but for a number that is not finite. Python's parser reads what orjson refuses."""
    found: list[str] = []

    def real(text: str) -> None:
        if math.isinf(float(text)):
            found.append(text)

    try:
        json.loads(raw.decode(), parse_constant=found.append, parse_float=real, parse_int=real)
    except (ValueError, RecursionError):
        return False
    return bool(found)


def _nothing(_text: str) -> None:
    return None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _DuplicateKeyError(name)
        seen.add(name)


def _kind(document: object) -> str:
    if isinstance(document, list):
        return "an array"
    return "a string" if isinstance(document, str) else shown(document)
