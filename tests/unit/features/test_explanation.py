"""What `tidemill features explain` says is what the kernels do."""

import json
import re
from typing import get_args

import numpy as np
import pytest

from support.joinedpipeline import JOINED_FRAUD
from tidemill.cli.__main__ import main
from tidemill.domain.durations import format_duration_ms, parse_duration_ms
from tidemill.domain.featurespec import FeatureSpec, StateLimits
from tidemill.features.core import rings
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.features.core.explanation import COSTS, explain, explain_feature
from tidemill.runtime.pipelinefile import load_pipeline

FRAUD = load_pipeline("fraud")


def said_edges(interval: str) -> tuple[int, int]:
    """(near, far) in ms of `(t − 8d, t − 7d]`."""
    ends = re.fullmatch(r"\(t − (\w+), t(?: − (\w+))?\]", interval)
    assert ends is not None
    return parse_duration_ms(ends[2] or "0ms"), parse_duration_ms(ends[1])


@pytest.mark.parametrize("index", [0, 1])
def test_each_interval_is_the_one_that_the_kernel_is_given(index: int) -> None:
    stage = compile_stage(FRAUD, index)
    said = [feature.interval for feature in explain(FRAUD, 1).stages[index].features if feature.interval]
    edges = stage.tables.edges.tolist()
    given = [(edges[near][0], edges[far][0]) for _, near, far, *_ in stage.tables.spec.tolist()]
    assert [said_edges(interval) for interval in said] == given


def test_every_feature_is_explained_in_the_order_of_the_vector() -> None:
    features = [feature for stage in explain(FRAUD, 1).stages for feature in stage.features]
    assert tuple(feature.name for feature in features) == FRAUD.feature_names
    assert {feature.cost for feature in features} <= set(COSTS)
    assert all(feature.definition and feature.null for feature in features)


def literals(field: str) -> list[str]:
    kinds = FeatureSpec.model_fields[field].annotation
    return [value for kind in get_args(kinds) for value in get_args(kind)]


@pytest.mark.parametrize("calendar", literals("calendar"))
def test_every_calendar_fact_has_a_description(calendar: str) -> None:
    feature = FeatureSpec.model_validate({"name": "f", "calendar": calendar})
    assert explain_feature(FRAUD, "customer", feature).cost == "calendar"


SAID = {"name": "f", "field": "amount", "k": 3, "q": 0.5, "equals": "web", "where": "amount > 5"}


@pytest.mark.parametrize(
    ("window", "interval", "cost"),
    [
        ("7d", "(t − 7d, t]", "prefix sums"),
        ({"type": "tumbling", "size": "1h"}, "[the last multiple of 1h at or before t, t]", "prefix sums"),
        (
            {"type": "hopping", "size": "1h", "hop": "10m"},
            "[the last multiple of 10m at or before t − 50m, t]",
            "prefix sums",
        ),
        (
            {"type": "session", "gap": "5m", "within": "2h"},
            "back from t to the first silence over 5m, 2h at most",
            "walk",
        ),
        ({"type": "count", "last": 9, "within": "2d"}, "the last 9 at or before t, 2d old at most", "walk"),
        ({"type": "decay", "half_life": "1h"}, "(t − 20h, t], weighted by 2^(−age / 1h)", "walk"),
    ],
)
def test_every_window_is_written_out(window: object, interval: str, cost: str) -> None:
    feature = FeatureSpec.model_validate({**SAID, "aggregate": "sum", "window": window})
    explained = explain_feature(FRAUD, "customer", feature)
    assert (explained.interval, explained.cost) == (interval, cost)
    assert explained.definition.endswith(" where amount > 5")


@pytest.mark.parametrize("aggregate", literals("aggregate"))
def test_every_aggregate_has_a_description_without_gaps(aggregate: str) -> None:
    feature = FeatureSpec.model_validate({**SAID, "aggregate": aggregate, "window": "1h"})
    explained = explain_feature(FRAUD, "customer", feature)
    assert explained.interval == "(t − 1h, t]"
    assert explained.interval in explained.definition
    assert not re.search(r"[{}]|None", explained.definition)


@pytest.mark.parametrize("rows", [1, 4, 5, 64, 65])
def test_the_example_of_memory_is_what_the_engine_takes(rows: int) -> None:
    stage = compile_stage(FRAUD, 0)
    engine = WindowEngine(stage)
    numbers = np.zeros((rows, len(stage.kept)), np.int64)
    times = np.arange(rows, dtype=np.int64)
    engine.slide([b"k"] * rows, times, times, np.full(rows, rings.NOT_A_LABEL, np.int64), numbers)
    ring = int(engine._meta[0, rings.CAP])
    assert (stage.row_bytes, stage.line_bytes) == (engine._arena.strides[0], engine._meta.strides[0])
    assert explain(FRAUD, rows).stages[0].example_bytes == engine._meta.strides[0] + ring * engine._arena.strides[0]


def test_what_is_bounded_is_said() -> None:
    first, second = FRAUD.features.stages
    limits = StateLimits(max_keys=1_000, max_bytes=5_000_000, when_full="evict")
    stages = (first.model_copy(update={"max_rows_per_key": 50_000, "bucket": 3_600_000}), second)
    update = {"stages": stages, "state_limits": limits}
    explained = explain(FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update=update)}), 1)
    caps = "A partition holds up to 1,000 keys and 5,000,000 bytes; when it is full, the keys whose newest event is "
    caps += "oldest are forgotten."
    assert explained.stages[0].bounds == (
        "Rows of a key with more than 50,000 rows older than 7d behind the key's newest are merged, one row a cell of "
        "1h; a cell has the time of its newest event.",
        caps,
    )
    assert explained.stages[1].bounds == (caps,)
    said = {feature.name: feature.definition for feature in explained.stages[0].features}
    assert said["customer_count_7d"].endswith("; where rows are merged, exact but for the cells of 1h at its edges")
    assert "merged" not in said["weekend"]
    assert explain(FRAUD, 1).stages[0].bounds == ()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0), capsys.readouterr().out


def test_the_command_shows_definitions_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "features", "explain", "fraud", "--rows", "60")
    assert code == 0
    assert "number of events of the terminal in (t − 8d, t − 7d]" in out
    assert "3,192 at 60 rows" in out


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "features", "explain", "fraud", "--json")
    report = json.loads(out)
    assert code == 0
    assert [stage["entity"] for stage in report["stages"]] == ["customer", "terminal"]
    rate = report["stages"][1]["features"][1]
    assert (rate["name"], rate["interval"], rate["cost"]) == (
        "terminal_fraud_rate_1d",
        "(t − 8d, t − 7d]",
        "prefix sums",
    )


def test_a_join_is_explained_by_the_records_of_its_stream() -> None:
    explained = {one.name: one for stage in explain(JOINED_FRAUD, 1).stages for one in stage.features}
    limit, logins = explained["card_limit"], explained["logins_1h"]
    assert limit.definition == (
        "limit, each rounded to 1/100, of the newest 1 of the records of limits of the customer in (t − 90d, t], "
        "the newest first"
    )
    assert (limit.null, limit.cost) == ("null where there are fewer", "ends")
    assert logins.definition == "number of records of logins of the customer in (t − 1h, t]"
    assert (logins.null, logins.interval) == ("never null: 0 over no record", "(t − 1h, t]")
    since = FeatureSpec.model_validate({"name": "f", "aggregate": "since_last", "stream": "logins", "window": "1h"})
    said = explain_feature(JOINED_FRAUD, "customer", since).definition
    assert said == "seconds from the newest of the records of logins of the customer in (t − 1h, t], to the event"


def test_the_memory_of_a_stage_with_joins_is_what_its_engine_takes() -> None:
    compiled = compile_stage(JOINED_FRAUD, 0)
    stage = explain(JOINED_FRAUD, 4).stages[0]
    assert (stage.retention, stage.row_bytes) == (format_duration_ms(compiled.retention), compiled.row_bytes)
    assert compiled.row_bytes == 8 * (rings.PREFIX + rings.NUMBERS + len(compiled.kept))
