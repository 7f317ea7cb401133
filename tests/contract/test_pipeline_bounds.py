"""What a pipeline file may hold at most: every number and every text of it fits what the services make of it."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.joinedpipeline import JOINED_TEXT
from tidemill.runtime.pipelinefile import pipeline_text, problems
from tidemill_schemas import pipeline_schema

SHIPPED = pipeline_text("fraud")[0]
AT_FEATURES = "features:\n  version: 1\n"
OF_ANY_KIND = {"default", "parameters"}
"""Keys whose values are of whatever kind the user needs: a number there is bounded to 64 bits by the model."""

# What is replaced in the shipped file, by what; and the path of the mistake.
TOO_LARGE: dict[str, tuple[str, str, str]] = {
    "lateness of 400 digits": ("allowed_lateness: 1h", f"allowed_lateness: {'9' * 400}d", "features.allowed_lateness"),
    "lateness": ("allowed_lateness: 1h", "allowed_lateness: 200000000000d", "features.allowed_lateness"),
    "lateness of labels": ("label_lateness: 7d", "label_lateness: 200000000000d", "features.label_lateness"),
    "window of 400 digits": ("window: 1d}", f"window: {'9' * 400}d}}", "features.stages.0.features.3.window"),
    "window of milliseconds": ("window: 1d}", f"window: {'9' * 30}}}", "features.stages.0.features.3.window"),
    "half-life": (
        *("window: 1d}", "window: {type: decay, half_life: 200000000000000d, within: 1d}}"),
        "features.stages.0.features.3.window.half_life",
    ),
    "delay": (*("window: 1d, delay: 7d", "window: 1d, delay: 99999999999999d", "features.stages.1.features.0.delay"),),
    "idle timeout": (AT_FEATURES, f"{AT_FEATURES}  idle_timeout: 99999999999999d\n", "features.idle_timeout"),
    "idle partition": (AT_FEATURES, f"{AT_FEATURES}  max_idle_ms: 600001\n", "features.max_idle_ms"),
    "version": (AT_FEATURES, f"features:\n  version: {'9' * 300}\n", "features.version"),
    "replaced version": (AT_FEATURES, f"features:\n  version: 2\n  replaces: {'9' * 300}\n", "features.replaces"),
    "bytes": (
        *(AT_FEATURES, f"{AT_FEATURES}  state_limits: {{max_bytes: 1{'0' * 25}}}\n", "features.state_limits.max_bytes"),
    ),
    "keys": (AT_FEATURES, f"{AT_FEATURES}  state_limits: {{max_keys: {1 << 63}}}\n", "features.state_limits.max_keys"),
    "rows of a key": (
        *("- entity: customer", f"- max_rows_per_key: 1{'0' * 23}\n      bucket: 1h\n      entity: customer"),
        "features.stages.0.max_rows_per_key",
    ),
    "last events": (
        *("window: 1d}", "window: {type: count, last: 10001, within: 1d}}"),
        "features.stages.0.features.3.window.last",
    ),
    "retention": ("retention_ms: -1", "retention_ms: 9223372036854775808", "topics.retention_ms"),
    "seed": ("cooldown: 4d", "cooldown: 4d\n  seed: 2147483648", "retrain.seed"),
    "seed below zero": ("cooldown: 4d", "cooldown: 4d\n  seed: -1", "retrain.seed"),
    "parameter": ("epochs: 20", f"epochs: {1 << 63}", "model.parameters.epochs"),
    "default": (
        *("cast: number, min", f"cast: number, default: -1{'0' * 30}, min", "ingest.sources.0.fields.amount.default"),
    ),
    "bucket": ("128, 256]", "128, 65537]", "model.batching.buckets.4"),
    "version of a source": ("kind: label", f"kind: label\n      versions: [{1 << 31}]", "ingest.sources.1.versions.0"),
    "hexadecimal": ("epochs: 20", f"epochs: 0x{'f' * 900}", "model.parameters.epochs"),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_reported_at_its_line(what: str) -> None:
    old, new, path = TOO_LARGE[what]
    assert old in SHIPPED
    text = SHIPPED.replace(old, new, 1)
    found = [problem for problem in problems(text) if problem.path == path]
    assert len(found) == 1, problems(text)
    assert path.split(".")[-1].rstrip("0123456789") in text.splitlines()[found[0].line - 1]
    assert len(found[0].message) < 200


def test_a_streams_lead_is_bounded() -> None:
    text = JOINED_TEXT.replace("max_lead: 2h", "max_lead: 99999999999999d", 1)
    assert [problem.path for problem in problems(text)] == ["streams.limits.max_lead"]


@pytest.mark.parametrize("number", ["9" * 5_000, f"0x{'f' * 5_000}", f"-{'1' * 5_000}"])
def test_a_number_that_nothing_can_convert_is_reported_at_its_line(number: str) -> None:
    text = SHIPPED.replace("epochs: 20", f"epochs: {number}", 1)
    (found,) = problems(text)
    at = text.index(number)
    assert (found.line, found.column) == (text[:at].count("\n") + 1, at - text.rindex("\n", 0, at))
    assert f"a number of {len(number):,} digits" in found.message


def _integers(schema: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every part of the schema that allows an integer, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            yield path, schema
        for key, inner in schema.items():
            yield from _integers(inner, (*path, key))
    elif isinstance(schema, list):
        for inner in schema:
            yield from _integers(inner, path)


def test_every_integer_of_a_pipeline_file_has_a_bound() -> None:
    bounds = {"maximum", "exclusiveMaximum", "const", "enum"}
    found = dict(_integers(pipeline_schema()))
    assert len(found) > 50
    assert {path for path, one in found.items() if not bounds & one.keys() and not OF_ANY_KIND & set(path)} == set()


# A text in double quotes with half a character; the line that must be named.
HALVES = {
    "value of a one-hot": ("calendar: night", 'one_hot: terminal, values: [t1, "x\\uD83Dy"]'),
    "value of a share": ("count, window: 1d}", 'share, field: terminal, equals: "x\\uD83Dy", window: 1d}'),
    "text of a filter": ("count, window: 1d}", "count, where: \"terminal == 'x\\uD83Dy'\", window: 1d}"),
    "decision": ("positive: review", 'positive: "\\uDC00"'),
    "description": ("description: Card", 'description: "\\uD83D\\uDE00" # Card'),
    "topic": ("topic: fraud-raw-payments", 'topic: "fraud\\uD83D"'),
    "name": ("name: fraud\n", 'name: "fr\\uD83Dud"\n'),
    "key": ("epochs: 20", '"epo\\uD83Dchs": 20'),
    "field of a source": ("{from: paid_at_ms,", '{from: "paid\\uDFFF",'),
}


@pytest.mark.parametrize("what", HALVES)
def test_half_a_character_is_reported_where_the_text_begins(what: str) -> None:
    old, new = HALVES[what]
    assert old in SHIPPED
    text = SHIPPED.replace(old, new, 1)
    (found,) = problems(text)
    line = text.splitlines()[found.line - 1]
    assert line[found.column - 1] == '"'
    assert "\\uD" in line[found.column - 1 :]
    assert "is half of a character" in found.message
    found.message.encode()


def test_a_whole_character_beyond_the_first_plane_is_text() -> None:
    assert problems(SHIPPED.replace("positive: review", 'positive: "\\U0001F600"', 1)) == []
