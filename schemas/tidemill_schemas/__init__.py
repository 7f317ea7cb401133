"""The contracts of Tidemill as data: JSON Schemas, topic definitions, AsyncAPI and examples, read from this package.

Nothing here imports `tidemill`. What is returned is a fresh copy, so that a caller may change it.
"""

import copy
import json
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from ruamel.yaml import YAML

Document = dict[str, Any]

_ROOT = resources.files(__name__)


class SchemaNotFoundError(LookupError):
    """No schema of that name and version is shipped."""


class Example(NamedTuple):
    """One fixture. An invalid one is named after the guard that must refuse it, `<keyword>-<what is wrong>`."""

    name: str
    document: Any


def schema_names() -> tuple[tuple[str, int], ...]:
    """Name and version of every record schema."""
    found = (entry.name.split(".") for entry in (_ROOT / "events").iterdir() if entry.name.endswith(".schema.json"))
    return tuple(sorted((parts[0], int(parts[1].removeprefix("v"))) for parts in found))


def load_schema(name: str, version: int = 1) -> Document:
    """The JSON Schema (2020-12) of a record. Raises SchemaNotFoundError naming what there is."""
    known = schema_names()
    if (name, version) not in known:
        names = ", ".join(f"{known_name} v{known_version}" for known_name, known_version in known)
        raise SchemaNotFoundError(f"there is no schema {name!r} v{version}; there are {names}")
    schema: Document = load_json(f"events/{name}.v{version}.schema.json")
    return schema


def pipeline_schema(version: int = 1) -> Document:
    """The JSON Schema of the pipeline file, for editors; `tidemill check` finds more."""
    schema: Document = load_json(f"config/pipeline.v{version}.schema.json")
    return schema


def topic_definitions() -> tuple[Document, ...]:
    """Every topic definition, by file name; each has the members that topics/README.md describes."""
    return tuple(load_yaml(f"topics/{name}") for name in _names("topics", ".yaml"))


def asyncapi() -> Document:
    """The AsyncAPI 3.0 document of the fraud pipeline. `$ref`s to schemas are relative to this package."""
    return load_yaml("asyncapi.yaml")


def examples(name: str, version: int = 1, *, valid: bool = True) -> tuple[Example, ...]:
    """The examples of a schema, by file name; none if it has no folder."""
    folder = f"examples/{name}/v{version}/{'valid' if valid else 'invalid'}"
    return tuple(Example(file.removesuffix(".json"), load_json(f"{folder}/{file}")) for file in _names(folder, ".json"))


def load_json(path: str) -> Any:
    """A JSON file of this package, by its path inside it."""
    return copy.deepcopy(_json(path))


def load_yaml(path: str) -> Document:
    """A YAML file of this package, by its path inside it."""
    return copy.deepcopy(_yaml(path))


def _names(folder: str, ending: str) -> list[str]:
    entry: Traversable = _ROOT.joinpath(*folder.split("/"))
    return sorted(file.name for file in entry.iterdir() if file.name.endswith(ending)) if entry.is_dir() else []


@cache
def _json(path: str) -> Any:
    return json.loads(_ROOT.joinpath(*path.split("/")).read_text(encoding="utf-8"))


@cache
def _yaml(path: str) -> Document:
    document: Document = YAML(typ="safe", pure=True).load(_ROOT.joinpath(*path.split("/")).read_text(encoding="utf-8"))
    return document
