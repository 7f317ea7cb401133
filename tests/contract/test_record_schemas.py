"""A contract is a schema with examples, and every guard in it has an example that it alone refuses."""

import json

import jsonschema_rs
import pytest

from support import generated
from support.schemaguards import VOCABULARY, broken_guards, guards, subschemas, validator
from tidemill_schemas import SchemaNotFoundError, examples, load_schema, schema_names

NAMES = [name for name, _ in schema_names()]
OPEN = {"fraud-raw-payment", "fraud-raw-chargeback", "dead-letter", "stream-record"}
"""Written by others, holding what others wrote, or with the fields that a pipeline file declares."""


@pytest.mark.parametrize("name", NAMES)
def test_every_valid_example_passes(name: str) -> None:
    checker = validator(name)
    found = examples(name)
    assert found
    for example in found:
        assert [error.message for error in checker.iter_errors(example.document)] == [], example.name


@pytest.mark.parametrize("name", NAMES)
def test_every_guard_refuses_the_example_that_is_named_after_it_and_no_other_guard_does(name: str) -> None:
    checker = validator(name)
    for example in examples(name, valid=False):
        assert broken_guards(checker, example.document) == [(f"{name}.v1.schema.json", example.name)], example.name


@pytest.mark.parametrize("name", NAMES)
def test_every_guard_has_an_example_and_every_invalid_example_a_guard(name: str) -> None:
    written = guards(load_schema(name))
    assert len(written) == len(set(written))
    assert sorted(written) == sorted(example.name for example in examples(name, valid=False))


@pytest.mark.parametrize("name", NAMES)
def test_schemas_use_known_keywords_only(name: str) -> None:
    schema = load_schema(name)
    jsonschema_rs.meta.validate(schema)
    unknown = [
        f"{'/'.join(pointer)}: {keyword}"
        for pointer, inner in subschemas(schema)
        for keyword in inner
        if keyword not in VOCABULARY
    ]
    assert unknown == []


def test_a_misspelt_guard_would_be_noticed() -> None:
    schema = {"properties": {"id": {"type": "string", "minLenght": 1}}, "aditionalProperties": False}
    unknown = {keyword for _, inner in subschemas(schema) for keyword in inner} - VOCABULARY
    assert unknown == {"minLenght", "aditionalProperties"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - OPEN))
def test_records_that_we_write_are_closed(name: str) -> None:
    schema = load_schema(name)
    kinds = schema.get("$defs", {}) if name == "drift" else {}
    closed = [kinds[kind] for kind in ("alarm", "statistics", "generation")] if kinds else [schema]
    assert all(part["additionalProperties"] is False for part in closed)


def test_fields_are_only_added_and_only_as_optional() -> None:
    before = json.loads(generated.FIELDS.read_text(encoding="utf-8"))
    now = generated.record_fields()
    for name, known in before.items():
        assert set(known["fields"]) <= set(now[name]["fields"]), f"{name} lost a field: a new meaning is a new version"
        assert set(known["required"]) == set(now[name]["required"]) & set(known["fields"]), name
        added = set(now[name]["fields"]) - set(known["fields"])
        assert not added & set(now[name]["required"]), f"{name}: a field added to a version must be optional"


def test_the_recorded_fields_are_up_to_date() -> None:
    assert generated.fields_text() == generated.FIELDS.read_text(encoding="utf-8"), (
        "run: python tests/support/generated.py"
    )


def test_the_pipeline_files_schema_is_up_to_date() -> None:
    assert generated.pipeline_schema() == generated.PIPELINE_SCHEMA.read_text(encoding="utf-8"), (
        "run: python tests/support/generated.py"
    )


def test_event_and_label_schemas_stand_alone() -> None:
    """They validate at ingest, without the other files."""
    for name in ("fraud-event", "fraud-label"):
        assert not [inner for _, inner in subschemas(load_schema(name)) if "$ref" in inner]


def test_an_unknown_schema_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SchemaNotFoundError, match=r"no schema 'fraud-event' v2; there are .*fraud-event v1"):
        load_schema("fraud-event", 2)


def test_what_the_loader_gives_may_be_changed() -> None:
    load_schema("drift")["title"] = "changed"
    assert load_schema("drift")["title"] == "Drift record"
