"""A schema's guards by name, and which of them a document breaks: so that each can have a fixture named after it."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from tidemill_schemas import load_json, schema_names

BASE = "tidemill:///events/"

ANNOTATIONS = frozenset({"$schema", "title", "description"})
SUBSCHEMA = frozenset({"items", "additionalProperties", "then", "else"})
SUBSCHEMAS_BY_NAME = frozenset({"properties", "$defs"})
SUBSCHEMA_LISTS = frozenset({"allOf"})
CONDITIONS = frozenset({"if", "not"})
ASSERTIONS = frozenset(
    {
        *("type", "const", "enum", "not", "required", "additionalProperties"),
        *("minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "pattern"),
        *("minItems", "maxItems", "uniqueItems"),
    }
)
VOCABULARY = (
    ANNOTATIONS | SUBSCHEMA | SUBSCHEMAS_BY_NAME | SUBSCHEMA_LISTS | CONDITIONS | ASSERTIONS | frozenset({"$ref"})
)
"""Every keyword that our schemas use; a misspelt one is none of them, and would guard nothing."""


def subschemas(schema: Any, pointer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every schema inside `schema`, itself included, with its JSON pointer."""
    if not isinstance(schema, dict):
        return
    yield pointer, schema
    for keyword, value in schema.items():
        if keyword in SUBSCHEMA | CONDITIONS:
            yield from subschemas(value, (*pointer, keyword))
        elif keyword in SUBSCHEMAS_BY_NAME:
            for name, inner in value.items():
                yield from subschemas(inner, (*pointer, keyword, name))
        elif keyword in SUBSCHEMA_LISTS:
            for position, inner in enumerate(value):
                yield from subschemas(inner, (*pointer, keyword, str(position)))


def guards(schema: dict[str, Any]) -> list[str]:
    """The name of every assertion written in `schema`: `amount.maximum`, `required.id`, `alarm.detector.pattern`.

    Those of a condition (`if`, `not`) refuse nothing by themselves and are left out.
    """
    found = []
    for pointer, inner in subschemas(schema):
        if CONDITIONS & set(_keywords(pointer)):
            continue
        for keyword in ASSERTIONS & inner.keys():
            if keyword == "required":
                found += [_name((*pointer, keyword), name) for name in inner[keyword]]
            elif keyword != "additionalProperties" or inner[keyword] is False:
                found.append(_name((*pointer, keyword)))
    return found


def validator(name: str, version: int = 1) -> jsonschema_rs.Validator:
    """A validator of one record schema that resolves the references between them offline."""
    documents = [
        (f"{BASE}{known}.v{number}.schema.json", load_json(f"events/{known}.v{number}.schema.json"))
        for known, number in schema_names()
    ]
    return jsonschema_rs.validator_for(
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": f"{BASE}{name}.v{version}.schema.json"},
        registry=jsonschema_rs.Registry(documents),
        offline=True,
    )


def broken_guards(checker: jsonschema_rs.Validator, document: Any) -> list[tuple[str, str]]:
    """(schema file, guard) of every assertion that `document` breaks."""
    broken = []
    for error in checker.iter_errors(document):
        uri, _, fragment = (error.absolute_keyword_location or "").partition("#")
        pointer = tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:])
        missing = error.kind.as_dict().get("property", "") if pointer[-1] == "required" else ""
        broken.append((uri.removeprefix(BASE), _name(pointer, missing)))
    return broken


def _keywords(pointer: tuple[str, ...]) -> Iterator[str]:
    """The keywords among the parts of a pointer; the others are names and positions."""
    parts = iter(pointer)
    for part in parts:
        yield part
        if part in SUBSCHEMAS_BY_NAME | SUBSCHEMA_LISTS:
            next(parts, None)


def _name(pointer: tuple[str, ...], missing: str = "") -> str:
    parts = [part for part in pointer if part not in SUBSCHEMAS_BY_NAME]
    return ".".join([*parts, missing] if missing else parts)
