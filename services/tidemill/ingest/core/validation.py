"""The canonical record against the user's JSON Schema, compiled by jsonschema-rs."""

from collections.abc import Mapping
from typing import Any

import jsonschema_rs

from tidemill.errors import ConfigurationError
from tidemill.ingest.core.faults import FieldError

_MESSAGE_CHARACTERS = 200


class CanonicalSchema:
    """A compiled schema. `is_valid` builds no error object; `faults` is for records that failed it."""

    __slots__ = ("_validator", "closed", "is_valid", "name", "properties", "required")

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        try:
            validator = jsonschema_rs.validator_for(dict(schema), offline=True)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise ConfigurationError(
                f"schema {name} is not a JSON Schema: {error}", hint="Correct the schema's file and start again."
            ) from None
        self.name = name
        self.closed = schema.get("additionalProperties") is False
        self.properties = frozenset(schema.get("properties", ()))
        self.required = frozenset(schema.get("required", ()))
        self._validator = validator
        self.is_valid = validator.is_valid

    def faults(self, record: Mapping[str, Any], sources: Mapping[str, str]) -> list[FieldError]:
        """Every violation, code `schema`, with its JSON path. `sources`: the sender's name of each canonical field."""
        return [
            FieldError(
                "schema", _field(error.instance_path, sources), f"{_path(error.instance_path)}: {_short(error.message)}"
            )
            for error in self._validator.iter_errors(record)
        ]


def _field(path: list[str | int], sources: Mapping[str, str]) -> str | None:
    return sources.get(str(path[0])) if path else None


def _path(path: list[str | int]) -> str:
    """`$.items[2].price`."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _short(message: str) -> str:
    return message if len(message) <= _MESSAGE_CHARACTERS else f"{message[:_MESSAGE_CHARACTERS]}…"
