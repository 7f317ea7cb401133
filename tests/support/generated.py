"""Files that are made from others. `python tests/support/generated.py` writes them; tests compare."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidemill.domain.pipeline import Pipeline
from tidemill_schemas import load_schema, schema_names

ROOT = Path(__file__).parents[2]
PIPELINE_SCHEMA = ROOT / "schemas" / "tidemill_schemas" / "config" / "pipeline.v1.schema.json"
FIELDS = ROOT / "tests" / "contract" / "fields.v1.json"


def pipeline_schema() -> str:
    """The JSON Schema of the pipeline file, from its model."""
    schema = Pipeline.model_json_schema(by_alias=True)
    schema["title"] = "Tidemill pipeline file"
    _close(schema)
    return _text({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def _close(schema: Any) -> None:
    """A mapping whose keys must be names takes no other keys; pydantic only says which keys it checks."""
    if isinstance(schema, dict) and "patternProperties" in schema:
        schema.setdefault("additionalProperties", False)
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _close(inner)


def record_fields() -> dict[str, dict[str, list[str]]]:
    """Every field of every record schema by its path, and which of them a writer must give."""
    found = {}
    for name, version in schema_names():
        schema = load_schema(name, version)
        found[f"{name}.v{version}"] = {"fields": sorted(_fields(schema)), "required": sorted(_required(schema))}
    return found


def fields_text() -> str:
    return _text(record_fields())


def _objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield path, schema
        for name, inner in {**schema.get("$defs", {}), **schema.get("properties", {})}.items():
            yield from _objects(inner, f"{path}{name}.")
        yield from _objects(schema.get("items"), f"{path}[].")


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    return (path + name for path, inner in _objects(schema) for name in inner.get("properties", {}))


def _required(schema: dict[str, Any]) -> Iterator[str]:
    return (path + name for path, inner in _objects(schema) for name in inner.get("required", ()))


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PIPELINE_SCHEMA.write_text(pipeline_schema(), encoding="utf-8")
    FIELDS.write_text(fields_text(), encoding="utf-8")
