"""One HTTP body → its records: a JSON object, a JSON array of objects, or one object a line (NDJSON)."""

from typing import Literal

import orjson

from tidemill.ingest.core.decoding import Decoder, parse, refuse_duplicate_keys
from tidemill.ingest.core.faults import FieldError

Form = Literal["json", "lines"]

_FORMS: dict[str, Form] = {
    "application/json": "json",
    "application/x-ndjson": "lines",
    "application/ndjson": "lines",
    "application/jsonl": "lines",
    "application/x-jsonlines": "lines",
}
CONTENT_TYPES = tuple(_FORMS)


def form_of(content_type: str) -> Form | None:
    """What a Content-Type header announces; None if that is nothing that ingest reads. JSON is UTF-8, always."""
    kind, *parameters = content_type.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8", "us-ascii"):
            return None
    return _FORMS.get(kind.strip())


def documents_of(decoder: Decoder, body: bytes, form: Form) -> list[object]:
    """The parsed records of a body, in order; one that cannot be parsed stands there as its FieldError.

    Raises FieldError when the body as a whole cannot be read.
    """
    if not body.strip():
        raise FieldError("not_json", None, "the body is empty; send a JSON object, an array of them, or one a line")
    return _lines(decoder, body) if form == "lines" else _json(decoder, body)


def _lines(decoder: Decoder, body: bytes) -> list[object]:
    found: list[object] = []
    for line in body.split(b"\n"):
        raw = line.strip()
        if raw:
            try:
                decoder.check_size(len(raw))
                found.append(_parsed(decoder, raw))
            except FieldError as fault:
                found.append(fault)
    return found


def _json(decoder: Decoder, body: bytes) -> list[object]:
    document = _parsed(decoder, body)
    if not isinstance(document, list):
        decoder.check_size(len(body.strip()))
        return [document]
    try:
        decoder.check_size(len(body))
    except FieldError:
        # The array is larger than one record may be, so each of its elements is measured.
        return [_measured(decoder, element) for element in document]
    return document


def _parsed(decoder: Decoder, raw: bytes) -> object:
    document = parse(raw)
    if decoder.refuses_duplicate_keys:
        refuse_duplicate_keys(raw)
    return document


def _measured(decoder: Decoder, element: object) -> object:
    try:
        decoder.check_size(len(orjson.dumps(element)))
    except FieldError as fault:
        return fault
    except orjson.JSONEncodeError:
        return FieldError("not_json", None, "the record is nested too deeply")
    return element
