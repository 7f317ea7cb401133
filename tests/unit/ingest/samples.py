"""A small pipeline and its schemas for ingest's tests: the shipped fraud pipeline with fields to vary."""

from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from tidemill.domain.pipeline import Pipeline, SourceSpec
from tidemill.ingest.core.cleaning import Cleaner, compile_cleaner
from tidemill.ingest.core.intake import Intake
from tidemill.ingest.core.validation import CanonicalSchema

NOW_MS = 1_522_600_000_000

PAYMENT = {
    "v": 1,
    "payment_id": "p-000000123",
    "paid_at_ms": 1522540831000,
    "card": "c-00042",
    "terminal": "t-00917",
    "amount": 12.34,
}
EVENT_BYTES = (
    b'{"v":1,"id":"p-000000123","event_time":1522540831000,"customer":"c-00042","terminal":"t-00917","amount":12.34}'
)
CHARGEBACK = {
    "v": 1,
    "payment_id": "p-000000123",
    "paid_at_ms": 1522540831000,
    "known_at_ms": 1522590000000,
    "card": "c-00042",
    "terminal": "t-00917",
    "fraud": 1,
}
LABEL_BYTES = (
    b'{"v":1,"id":"p-000000123","event_time":1522540831000,"known_at":1522590000000,'
    b'"customer":"c-00042","terminal":"t-00917","fraud":1}'
)

_TEXT = {"type": "string", "minLength": 1, "maxLength": 128}
_MOMENT = {"type": "integer", "minimum": 0}
EVENT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["v", "id", "event_time", "customer", "terminal", "amount"],
    "properties": {
        "v": {"const": 1},
        "id": _TEXT,
        "event_time": _MOMENT,
        "customer": _TEXT,
        "terminal": _TEXT,
        "amount": {"type": "number", "minimum": 0},
        "channel": {"enum": ["web", "till"]},
    },
}
LABEL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["v", "id", "event_time", "known_at", "customer", "terminal", "fraud"],
    "properties": {
        "v": {"const": 1},
        "id": _TEXT,
        "event_time": _MOMENT,
        "known_at": _MOMENT,
        "customer": _TEXT,
        "terminal": _TEXT,
        "fraud": {"enum": [0, 1]},
    },
}


@cache
def fraud_pipeline() -> Pipeline:
    """The shipped pipeline, unchanged; frozen, so one is enough."""
    text = files("tidemill.scenarios.fraud").joinpath("pipeline.yaml").read_text("utf-8")
    return Pipeline.model_validate(YAML(typ="safe").load(text))


def schema_of(kind: str) -> CanonicalSchema:
    return CanonicalSchema(f"fraud-{kind}", EVENT_SCHEMA if kind == "event" else LABEL_SCHEMA)


def intake_of(name: str = "card-payments", *, refuse_duplicate_keys: bool = False) -> Intake:
    """The intake of one source of the shipped pipeline."""
    pipeline = fraud_pipeline()
    source = next(source for source in pipeline.ingest.sources if source.name == name)
    return Intake(pipeline, source, schema_of(source.kind), refuse_duplicate_keys=refuse_duplicate_keys)


def source_with(name: str, **fields: dict[str, Any]) -> SourceSpec:
    """A shipped source with `fields` added or replaced."""
    source = next(source for source in fraud_pipeline().ingest.sources if source.name == name)
    dumped = source.model_dump(by_alias=True)
    dumped["fields"] |= fields
    return SourceSpec.model_validate(dumped)


def cleaner_with(name: str = "card-payments", **fields: dict[str, Any]) -> Cleaner:
    """A cleaner whose source has `fields` added or replaced; no declared limits on a field called `x`."""
    return compile_cleaner(fraud_pipeline(), source_with(name, **fields))
