"""What is wrong with one field of one record, said once for dead letters and HTTP answers alike."""

from typing import NamedTuple

from tidemill.errors import RecordError

_SHOWN_CHARACTERS = 60


class FieldError(RecordError):
    """A `RecordError` that knows its field: the sender's own name for it, or None for the record as a whole."""

    def __init__(self, code: str, field: str | None, message: str) -> None:
        super().__init__(code, message)
        self.field = field


class Place(NamedTuple):
    """Where a value comes from (`source`, the sender's name) and goes to (`name`, the canonical field)."""

    name: str
    source: str

    def __str__(self) -> str:
        return self.name if self.name == self.source else f"{self.name} (from {self.source})"

    def fault(self, code: str, complaint: str) -> FieldError:
        """The error to raise: `amount (from amt) is "x", not a number`."""
        return FieldError(code, self.source, f"{self} {complaint}")


def shown(value: object) -> str:
    """`value` for a message, cut short: a hostile record must not make a long header or log line."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value[: _SHOWN_CHARACTERS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
