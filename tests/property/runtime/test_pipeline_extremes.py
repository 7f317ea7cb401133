"""A pipeline file with one value at an extreme is refused at its place, or it runs: there is nothing between."""

import copy
import io
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from support.featurestages import keyed_stage
from support.joinedpipeline import JOINED_TEXT, payment
from support.summarystreams import stage_of
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.definition import compile_stage
from tidemill.ingest.core.cleaning import compile_cleaner
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text, problems
from tidemill.runtime.topics import plan

SHIPPED = pipeline_text("fraud")[0]
NOON = 1_522_584_000_000

_LIMITS = """  idle_timeout: 1m
  max_idle_ms: 3000
  state_limits: {max_keys: 1000, max_bytes: 1000000, when_full: evict}
  stages:
"""
_MORE = """        - {name: tumbling, aggregate: sum, field: amount, window: {type: tumbling, size: 1h}}
        - {name: hopping, aggregate: std, field: amount, window: {type: hopping, size: 2h, hop: 1h}, delay: 1m}
        - {name: session, aggregate: max, field: amount, window: {type: session, gap: 1m, within: 1h}}
        - {name: newest, aggregate: last, k: 2, field: amount, window: {type: count, last: 5, within: 1h}}
        - {name: decay, aggregate: mean, field: amount, window: {type: decay, half_life: 1h, within: 1d}}
        - {name: median, aggregate: quantile, q: 0.5, field: amount, window: 1h, where: amount > 3}
        - {name: part, aggregate: share, field: terminal, equals: t1, window: 1h}
        - {name: seen, one_hot: terminal, values: [t1, t2], other: true}
        - {name: ratio, expression: log(amount / tumbling)}
      summaries:
        - name: hourly
          window: {type: hopping, size: 1h, hop: 30m}
          fields: [{name: n, aggregate: count}, {name: web, aggregate: share, field: terminal, equals: t1}]
          on_late: correct
          corrections_for: 1d
    - entity: terminal
      max_rows_per_key: 100
      bucket: 1h
"""
FILES = {
    "fraud": SHIPPED,
    "joined": JOINED_TEXT,
    "everything": SHIPPED.replace("  stages:\n", _LIMITS, 1).replace("    - entity: terminal\n", _MORE, 1),
}

EXTREMES: list[Any] = [
    *(0, 1, -1, 10_001, 1 << 31, 1 << 53, (1 << 63) - 1, 1 << 63, -(1 << 63), 10**30, 10**400),
    *(0.0, -0.5, 0.1, 5e-324, -1e308, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "0d", "1ms", "3650d", "3651d", "99999999999999d", f"{'9' * 400}d", "-1d"),
    *("1.0000000000000001d", "\u0661d"),
    *("x\ud83dy", "\0", "\x85", "\u2028", "a" * 300, "A" * 5_000, "_", "terminal_v2", "amount > 1"),
    *("1 / 0", "null", "~", "1e9", "2020-13-45", "2020-01-01"),
    *("fraud", "amount", "terminal", "customer", "weekend", "id", "v", "stream", "fraud-events", "'", '"', "(" * 60),
    *(f"amount > {'9' * 500}", f"amount == 0.{'0' * 500}1", "+".join(["1"] * 499), "1e999", f"1e-{'9' * 20}"),
    *(True, False, None, [], {}, [[]], {"": {}}),
]  # fmt: skip

Place = tuple[str | int, ...]


def _read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def _scalars(data: Any, place: Place = ()) -> Iterator[Place]:
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if inside is None:
        yield place
        return
    for key, value in inside:
        yield from _scalars(value, (*place, key))


DATA = {name: _read(text) for name, text in FILES.items()}
PLACES = [(name, place) for name, data in DATA.items() for place in _scalars(data)]


def changed(name: str, place: Place, value: Any) -> str:
    """The file of this name with `value` at `place`, which holds a scalar."""
    data = parent = copy.deepcopy(DATA[name])
    *above, last = place
    for key in above:
        parent = parent[key]
    parent[last] = value
    written = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.width = 1 << 20
    writer.dump(data, written)
    return written.getvalue()


def run(pipeline: Pipeline) -> None:
    """Everything that a service makes of the file when it starts, and one event."""
    assert len(feature_set_hash(pipeline)) == 12
    names = [topic.name for topic in plan(pipeline)]
    assert len(names) == len(set(names))
    for source in pipeline.ingest.sources:
        assert compile_cleaner(pipeline, source, ())
    for index, stage in enumerate(pipeline.features.stages):
        assert compile_stage(pipeline, index).entity == stage.entity
        closing = stage.summaries or pipeline.features.summaries_behind(index)
        made = (stage_of if closing else keyed_stage)(pipeline, index)
        made.restore(0, [])
        if index == 0:
            made.add([payment("p1", NOON)], 0.0)
            made.flush(0.0)


def test_the_files_are_right_and_run() -> None:
    for text in FILES.values():
        assert problems(text) == []
        run(parse_pipeline(text))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(EXTREMES))
@example(("everything", ("features", "allowed_lateness")), "200000000000d")
@example(("everything", ("features", "label_lateness")), f"{'9' * 400}d")
@example(("everything", ("features", "state_limits", "max_bytes")), 10**30)
@example(("everything", ("features", "stages", 0, "features", 13, "window", "half_life")), "99999999999999d")
@example(("everything", ("features", "stages", 0, "features", 16, "values", 0)), "x\ud83dy")
@example(("joined", ("streams", "limits", "max_lead")), "99999999999999d")
def test_one_extreme_value_is_refused_or_runs(at: tuple[str, Place], value: Any) -> None:
    name, place = at
    text = changed(name, place, value)
    found = problems(text)
    for problem in found:
        problem.message.encode()
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.column >= 1
    if not found:
        run(parse_pipeline(text))
