"""A summarizing stage among the rest: its records, topics, state, and what it is when nothing asks for it."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import generate_latest

from support.featurestages import keyed_stage, metrics
from support.schemaguards import validator
from support.summaryoracle import Mark, Payment
from support.summarystreams import FIELDS, SECOND, Counted, as_record, flushed, shop, stage_of, written
from tidemill.cli.__main__ import main
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.summaryspec import SummarySpec
from tidemill.errors import StateCorrupt
from tidemill.features import warmup
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.holdings import WindowHoldings
from tidemill.features.core.summarypartition import is_summary_entry
from tidemill.features.core.watermark import PartitionWatermark, Policy, Watermark, read_watermark
from tidemill.features.metrics import SUMMARIES, SummaryMetrics
from tidemill.features.process import _unit, service_spec
from tidemill.features.shell import KeyedStage
from tidemill.features.summarizing import SummarizingStage, policy_of
from tidemill.runtime.health import Health
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline, parse_pipeline, pipeline_text
from tidemill.runtime.service import Record
from tidemill.runtime.topics import plan

T = 1_000 * SECOND


def summary(name: str = "tens", window: dict[str, Any] | None = None, **more: Any) -> SummarySpec:
    shape = window or {"type": "tumbling", "size": 10 * SECOND}
    return SummarySpec.model_validate({"name": name, "window": shape, "fields": FIELDS, **more})


def payment(number: int, at_s: float, key: str = "a", cents: int = 500) -> Payment:
    return Payment(key, number, T + int(at_s * SECOND), cents, "web")


def records(*items: Payment | Mark) -> list[Record]:
    return [as_record(item) for item in items]


def test_what_it_writes_keeps_the_schemas() -> None:
    correcting = summary(on_late="correct", corrections_for="1d")
    stage = stage_of(shop([correcting], 0, [summary()]))
    output = flushed(stage, [payment(1, 0), payment(2, 11), payment(3, 1), payment(4, 22, "b")], {})
    summaries = [record for record in output.records if record.topic == "fraud-customer-summaries"]
    marks = [record for record in output.records if record.topic == "fraud-by-terminal" and record.key is None]
    for record in summaries:
        assert [error.message for error in validator("summary").iter_errors(orjson.loads(record.value or b""))] == []
        assert (record.key, record.partition) == (b"a", -1)
        assert record.timestamp == orjson.loads(record.value or b"")["window_end"]
    for record in marks:
        assert [error.message for error in validator("watermark").iter_errors(orjson.loads(record.value or b""))] == []
    assert [orjson.loads(record.value or b"")["revision"] for record in summaries] == [0, 1, 0]
    ids = [orjson.loads(record.value or b"")["id"] for record in summaries]
    assert ids == ["tens/a/1000000", "tens/a/1000000", "tens/a/1010000"]
    assert {record.partition for record in marks} == {0, 1}
    assert [dead.code for dead in output.dead] == ["late"], "for its features it came too late all the same"


def test_every_declared_metric_is_reported() -> None:
    registered = Metrics({"pipeline": "fraud", "service": "features"}, SUMMARIES)
    SummaryMetrics(registered).written(first=1, corrections=2, missed=3, windows=4)
    SummaryMetrics(registered).watermarks(idle=5, handed_on=6)
    lines = generate_latest(registered.registry).decode().splitlines()
    shown = [line for line in lines if line.startswith("tidemill_features_") and "_created" not in line]
    assert {line.partition("{")[0] for line in shown} == {declared.name for declared in SUMMARIES}
    assert sorted(line.rpartition(" ")[2] for line in shown) == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0"]


def test_without_a_changelog_windows_close_as_well_and_nothing_is_kept() -> None:
    pipeline = shop([summary()], 0)
    features = pipeline.features.model_copy(update={"state": "memory"})
    stage = stage_of(pipeline.model_copy(update={"features": features}))
    output = flushed(stage, [payment(1, 0), payment(2, 11)], {})
    assert output.state == []
    assert [one.values["payments"] for one in written(output.records)] == [1]
    assert not stage._held[0].windows.changed, "what would have been written does not pile up"


def test_state_of_another_definition_is_refused_with_advice() -> None:
    changelog: dict[bytes, bytes] = {}
    flushed(stage_of(shop([summary()], 0)), [payment(1, 0)], changelog)
    other = stage_of(shop([summary(on_late="correct", corrections_for="1d")], 0))
    with pytest.raises(StateCorrupt, match="another definition of this summary") as caught:
        other.restore(0, changelog.items())
    assert "name the pipeline anew" in caught.value.hint


@pytest.mark.parametrize("days", [("2d", "2d"), (None, "2d"), ("2d", None), ("2d", "30d")])
def test_rings_go_on_whatever_is_summed_up_and_corrected(days: tuple[str | None, str | None]) -> None:
    week = {"type": "tumbling", "size": "7d"}
    before, after = (
        [summary("s", week, on_late="correct", corrections_for=day)] if day is not None else [] for day in days
    )
    changelog: dict[bytes, bytes] = {}
    flushed(stage_of(shop(before, 0)), [payment(1, 0)], changelog)
    rings = [(key, value) for key, value in changelog.items() if not is_summary_entry(key)]
    stage = stage_of(shop(after, 0))
    stage.restore(0, rings)
    output = flushed(stage, [payment(2, 1)], {})
    made = [orjson.loads(out.value or b"") for out in output.records if out.topic == "fraud-features"]
    assert [one["features"] for one in made] == [[2]]


def test_an_event_is_known_again_as_long_as_its_window_is_open() -> None:
    """Its key's features ask for a minute only."""
    pipeline = shop([summary("month", {"type": "tumbling", "size": "30d"})], 0)
    features = pipeline.features.model_copy(update={"label_lateness": 0})
    stage = stage_of(pipeline.model_copy(update={"features": features}))
    month = 30 * 86_400
    begun = month - T // SECOND % month
    first = payment(1, begun)
    flushed(stage, [first], {})
    for day in range(1, 30):
        flushed(stage, [payment(1 + day, begun + day * 86_400, "b")], {})
    assert flushed(stage, [first], {}).records == []
    output = flushed(stage, [payment(99, begun + month, "c")], {})
    counts = {one.key: one.values["payments"] for one in written(output.records)}
    assert counts == {"a": 1, "b": 29}


@pytest.mark.parametrize("left", [[], [summary("other")]], ids=["none", "another"])
def test_a_summary_that_is_taken_out_is_forgotten_and_the_rings_go_on(left: list[SummarySpec]) -> None:
    changelog: dict[bytes, bytes] = {}
    flushed(stage_of(shop([summary()], 0)), [payment(1, 0)], changelog)
    pipeline = shop(left, 0)
    stage: KeyedStage = stage_of(pipeline) if left else keyed_stage(pipeline, 0)
    stage.restore(0, changelog.items())
    stage.add(records(payment(2, 1)), 0.0)
    output = stage.flush(0.0)
    vector = next(orjson.loads(record.value or b"") for record in output.records)
    assert vector["features"] == [2.0], "both events are in the window of the feature"
    gone = {entry.key for entry in output.state if entry.value is None}
    assert {key for key in changelog if key.startswith(b"tens\x00")} <= gone
    assert gone


def test_the_state_of_windows_is_no_row_of_a_key() -> None:
    changelog: dict[bytes, bytes] = {}
    pipeline = shop([summary()], 0)
    flushed(stage_of(pipeline), [payment(1, 0), payment(2, 1)], changelog)
    assert any(key.startswith(b"tens\x00") for key in changelog)
    holdings = WindowHoldings(pipeline, 0)
    assert [(one.key, one.rows) for one in holdings.summaries(changelog)] == [("a", 2)]
    assert len(list(holdings.rows(changelog))) == 2


def test_a_stage_without_summaries_passes_over_watermark_records() -> None:
    stage = keyed_stage(shop([], 0), 0)
    stage.add(records(Mark(T), payment(1, 0), Mark(T + 1)), 0.0)
    output = stage.flush(0.0)
    assert (len(output.records), output.dead) == (1, [])
    stage.add([Record("fraud-events", 0, 0, T, None, b'{"kind":"other"}')], 0.0)
    assert [dead.message for dead in stage.flush(0.0).dead] == ["has no key"]


def test_summaries_change_no_name_of_the_feature_set_and_no_fingerprint() -> None:
    plain, summarizing = shop([], 0), shop([summary()], 0, None)
    assert feature_set_hash(plain) == feature_set_hash(summarizing)
    assert compile_stage(plain, 0).fingerprint == compile_stage(summarizing, 0).fingerprint
    week = summary(on_late="correct", corrections_for="30d")
    assert compile_stage(shop([week], 0), 0).retention > 30 * 86_400 * SECOND, "duplicates are known for as long"


def test_only_a_pipeline_with_summaries_has_their_topics_and_readers() -> None:
    text = pipeline_text("fraud")[0]
    plain = {topic.name: topic for topic in plan(load_pipeline("fraud"))}
    added = "      summaries: [{name: h, window: {type: tumbling, size: 1h}, fields: [{name: n, aggregate: count}]}]\n"
    of_first = parse_pipeline(text.replace("    - entity: terminal", f"{added}    - entity: terminal"), "x.yaml")
    of_second = parse_pipeline(text.replace("\n\noutcomes:", f"\n{added}\noutcomes:"), "x.yaml")
    first, second = ({topic.name: topic for topic in plan(pipeline)} for pipeline in (of_first, of_second))
    assert first.keys() - plain.keys() == {"fraud-customer-summaries"}
    assert second.keys() - plain.keys() == {"fraud-terminal-summaries"}
    assert plain["fraud-events"].schemas == ("fraud-event",)
    assert plain["fraud-events"].written_by == ("ingest",)
    assert first["fraud-events"].schemas == second["fraud-events"].schemas == ("fraud-event", "watermark")
    assert first["fraud-events"].written_by == ("ingest", "features-customer")
    assert "watermark" not in first["fraud-by-terminal"].schemas
    assert "watermark" in second["fraud-by-terminal"].schemas
    assert first["fraud-customer-summaries"].schemas == ("summary",)


@pytest.mark.parametrize(
    ("first", "second", "summarizing"), [([], [], ()), (["x"], [], (0,)), ([], ["x"], (0, 1)), (["x"], ["y"], (0, 1))]
)
def test_a_stage_is_a_summarizing_one_only_if_it_or_a_later_one_has_summaries(
    monkeypatch: pytest.MonkeyPatch, first: list[str], second: list[str], summarizing: tuple[int, ...]
) -> None:
    monkeypatch.setattr(warmup, "compile_kernels", lambda **_: None)
    pipeline = shop(list(map(summary, first)), 0, list(map(summary, second)))
    for index, entity in enumerate(("customer", "terminal")):
        health = Health("features", metrics(pipeline))
        service = _unit(service_spec(pipeline, entity), pipeline, entity, health).service
        assert isinstance(service, KeyedStage)
        assert isinstance(service, SummarizingStage) == (index in summarizing)


def test_records_that_nothing_sums_up_cost_a_counter_and_no_window() -> None:
    counted = Counted()
    stage = stage_of(shop([summary()], 0), counted=counted)
    flushed(stage, [payment(1, 0), payment(2, 30), payment(3, 5, "b")], {})
    assert (counted.first, counted.missed, counted.windows) == (1, 1, 1)


def test_explain_names_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = """      summaries:
        - name: visits
          window: {type: session, gap: 30m, within: 1d}
          fields: [{name: spent, aggregate: sum, field: amount, where: amount > 5}]
          on_late: correct
          corrections_for: 2d
    - entity: terminal"""
    file = tmp_path / "pipeline.yaml"
    file.write_text(pipeline_text("fraud")[0].replace("    - entity: terminal", added))
    with pytest.raises(SystemExit):
        main(["features", "explain", str(file), "--json"])
    (one,) = json.loads(capsys.readouterr().out)["stages"][0]["summaries"]
    assert (one["name"], one["topic"]) == ("visits", "fraud-customer-summaries")
    assert one["values"] == {"spent": "sum of amount where amount > 5"}
    assert "newest event time − 1h" in one["closes"]
    assert "for 2d" in one["late"]
    with pytest.raises(SystemExit):
        main(["features", "explain", str(file)])
    assert "visits" in capsys.readouterr().out


# The watermark by itself.

FIRST = Policy(lateness=10, sources=0, grid=0, span=0, idle_timeout=1_000)
TELLING = FIRST._replace(grid=100, span=500)


def test_a_watermark_never_falls() -> None:
    mark = PartitionWatermark(FIRST)
    for time, expected in ((100, 90), (50, 90), (200, 190)):
        mark.event(time)
        assert mark.value == expected
    mark.heard(0, 150)
    assert mark.value == 190


def test_silence_is_spoken_of_once_a_timeout_and_moves_nothing_until_it_is_read() -> None:
    mark = PartitionWatermark(FIRST)
    mark.event(1_000)
    assert mark.idle_at(None) is None, "no window is open"
    assert mark.idle_at(1_200) == 0.0, "look at the clock first"
    assert mark.speak(50.0, 1_200) is None
    assert mark.idle_at(1_200) == 51.0
    assert mark.speak(50.9, 1_200) is None
    assert mark.speak(51.0, 1_200) == (1_990,)
    assert mark.value == 990
    assert mark.speak(51.5, 1_200) is None, "it has been said"
    mark.heard(0, 1_990)
    assert mark.value == 1_990


def test_who_hands_on_speaks_until_all_is_closed_behind_and_then_says_that_it_is_idle() -> None:
    mark = PartitionWatermark(TELLING)
    mark.event(5_000)
    now, said = 0.0, []
    mark.speak(now, None)
    while (moment := mark.idle_at(None)) is not None:
        now = moment
        spoken = mark.speak(now, None)
        assert spoken is not None
        said.append(spoken[0])
        mark.heard(0, spoken[0])
    assert said == [5_990, None]
    assert mark.to_hand_on() == (5_990, None), "the last value first: no other record will say it"
    assert mark.to_hand_on() == ()
    mark.event(5_001)
    assert mark.to_hand_on() == (5_990,), "awake again"


def test_an_idle_record_from_before_an_event_is_no_news() -> None:
    mark = PartitionWatermark(TELLING)
    mark.event(5_000)
    mark.heard(0, None)
    assert (mark.idle, mark.to_hand_on()) == (False, (4_990,))
    assert mark.idle_at(None) is not None, "it will speak again, or windows behind would wait for ever"


def test_a_watermark_is_handed_on_when_it_crosses_the_grid() -> None:
    mark = PartitionWatermark(TELLING)
    told = []
    for time in (110, 150, 199, 211, 500, 505):
        mark.event(time)
        told.append(mark.to_hand_on())
    assert told == [(100,), (), (), (201,), (490,), ()]


def test_of_several_sources_the_slowest_that_is_awake_counts() -> None:
    mark = PartitionWatermark(FIRST._replace(sources=3, idle_timeout=0))
    mark.heard(0, 500)
    mark.heard(1, 300)
    assert mark.value < 0, "the third has not been heard of"
    mark.heard(2, None)
    assert mark.value == 300
    mark.heard(1, None)
    assert (mark.value, mark.idle) == (500, False)
    mark.heard(0, None)
    assert (mark.value, mark.idle) == (500, True)


def test_a_restored_watermark_goes_on_and_one_of_other_partitions_is_refused() -> None:
    policy = TELLING._replace(sources=2)
    mark = PartitionWatermark(policy)
    mark.heard(0, 500)
    mark.heard(1, 400)
    mark.to_hand_on()
    restored = PartitionWatermark(policy)
    restored.restore(mark.pack())
    assert (restored.value, restored.sources, restored.to_hand_on()) == (400, {0: 500, 1: 400}, ())
    coarser = PartitionWatermark(policy._replace(grid=300))
    coarser.restore(mark.pack())
    assert coarser.to_hand_on() == (400,), "what waits behind has changed"
    with pytest.raises(ValueError, match="number of partitions"):
        PartitionWatermark(policy._replace(sources=3)).restore(mark.pack())


def test_a_watermark_record_is_read_as_written_and_nothing_else_is_one() -> None:
    mark = Watermark(1, "customer", 3, None)
    assert read_watermark(mark.encode()) == mark
    forged = [
        b'{"kind":"watermark","v":1,"stage":"c","partition":0,"watermark":%d}' % w for w in (-1, 1 << 53, 1 << 64)
    ]
    event = b'{"kind":"event","v":1,"stage":"c","partition":0,"watermark":1}'
    for other in (None, b"", b"{}", event, b"[1]", *forged):
        assert read_watermark(other) is None


def test_what_is_handed_on_is_as_fine_as_the_shortest_window_behind_needs() -> None:
    hour, minute = {"type": "tumbling", "size": "1h"}, {"type": "tumbling", "size": "1m"}
    pipeline = shop([], 0, [summary("h", hour), summary("m", minute)])
    assert (policy_of(pipeline, 0).grid, policy_of(pipeline, 0).span) == (3_000, 3_600_001)
    assert (policy_of(pipeline, 1).grid, policy_of(pipeline, 1).sources) == (0, 2)
