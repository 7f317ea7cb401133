"""`tidemill state`: the rows that a stage was given, read back from its changelog."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from support.changelogs import ListReader, changelog
from support.featurestages import join_metrics, keyed_stage
from support.joinedpipeline import JOINED_FRAUD, NOON, limit, login, payment
from support.paymentstream import payments_and_labels
from tidemill.cli import state
from tidemill.cli.__main__ import main
from tidemill.domain.featurespec import StageSpec
from tidemill.errors import ConfigurationError, StateCorrupt
from tidemill.features.core.codec import hash_texts
from tidemill.features.outcomes import OutcomeStage
from tidemill.features.stateview import StateView, state_view
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord, Record, Service

FRAUD = load_pipeline("fraud")
PARTITIONS = 2
STREAM = payments_and_labels("fraud", PARTITIONS, count=400, days=20, seed=5)
"""Shorter than the retention: nothing expires."""


def partition_of(record: OutRecord) -> int:
    return (record.key or b"")[-1] % PARTITIONS


def written_by(service: Service, records: list[OutRecord], batch: int = 37) -> dict[int, list[Record]]:
    entries = []
    for begin in range(0, len(records), batch):
        part = records[begin : begin + batch]
        service.add([Record(at.topic, partition_of(at), 0, at.timestamp, at.key, at.value) for at in part], 0.0)
        entries += service.flush(0.0).state
    return changelog("fraud-customer-state", PARTITIONS, entries)


def view_of(logs: dict[int, list[Record]], stage: str) -> StateView:
    return state_view(FRAUD, stage, lambda topic, only: ListReader(topic, logs, only), print)


@pytest.fixture(scope="module")
def logs() -> dict[int, list[Record]]:
    return written_by(keyed_stage(FRAUD, 0), STREAM)


@pytest.fixture(scope="module")
def accepted() -> list[dict[str, Any]]:
    """Events and labels that the stage took: all but repeated ones, late ones and labels of those."""
    seen: set[tuple[str, str]] = set()
    rows = []
    for record in STREAM:
        row = orjson.loads(record.value or b"")
        known = (row["id"], "label" if "fraud" in row else "event")
        late = row["event_time"] < record.timestamp and known[1] == "event"
        if known in seen or late or row["id"].startswith("end"):
            continue
        if known[1] == "event" or (row["id"], "event") in seen:
            seen.add(known)
            rows.append(row)
    stage = keyed_stage(FRAUD, 0)
    stage.add([Record(at.topic, 0, 0, at.timestamp, at.key, at.value) for at in STREAM], 0.0)
    passed = {(row["id"], "fraud" in row) for row in map(orjson.loads, (at.value for at in stage.flush(0.0).records))}
    return [row for row in rows if (row["id"], "fraud" in row) in passed]


def test_every_row_that_was_taken_is_shown_with_its_values(
    logs: dict[int, list[Record]], accepted: list[dict[str, Any]]
) -> None:
    def shown(row: dict[str, Any]) -> tuple[Any, ...]:
        return (row["key"], row["event_time"], row["kind"], row["id_hash"], row["label"], row["amount"])

    expected = [
        (
            row["customer"],
            row["event_time"],
            "label" if "fraud" in row else "event",
            f"{int(hash_texts([row['id']])[0]) & (2**64 - 1):016x}",
            row.get("fraud"),
            row.get("amount"),
        )
        for row in accepted
    ]
    assert sorted(map(repr, map(shown, (row for _, row in view_of(logs, "customer").rows())))) == sorted(
        map(repr, expected)
    )


def test_a_record_of_a_second_stream_is_a_row_of_its_stream_with_its_own_fields() -> None:
    sent = [limit("l1", NOON, 12.5), login("9", NOON + 1), payment("p1", NOON + 2, 3.25)]
    records = [OutRecord(at.topic, at.key, at.value, at.timestamp) for at in sent]
    logs = written_by(keyed_stage(JOINED_FRAUD, 0), records)
    view = state_view(JOINED_FRAUD, "customer", lambda topic, only: ListReader(topic, logs, only), print)
    names = ("event_time", "kind", "label", "amount", "limits.limit")
    assert [tuple(row[name] for name in names) for _, row in view.rows("c1")] == [
        (NOON, "limits", None, None, 12.5),
        (NOON + 1, "logins", None, None, None),
        (NOON + 2, "event", None, 3.25, None),
    ]
    assert list(view.holdings.columns)[-2:] == ["amount", "limits.limit"]


def test_keys_have_their_rows_span_and_share_of_the_changelog(
    logs: dict[int, list[Record]], accepted: list[dict[str, Any]]
) -> None:
    rows = Counter(row["customer"] for row in accepted)
    keys = {summary.key: summary for _, summary in view_of(logs, "customer").summaries()}
    assert {key: summary.rows for key, summary in keys.items()} == rows
    times = [row["event_time"] for row in accepted if row["customer"] == "c7"]
    assert (keys["c7"].oldest, keys["c7"].newest) == (min(times), max(times))
    latest = {record.key: record for log in logs.values() for record in log if record.value is not None}
    total = sum(len(record.key or b"") + len(record.value or b"") for record in latest.values())
    assert sum(summary.bytes or 0 for summary in keys.values()) == total


def test_rows_that_have_expired_are_not_shown() -> None:
    stage, day = keyed_stage(FRAUD, 0), 86_400_000
    values = [
        OutRecord(
            "fraud-events", b"c1", b'{"id":"%d","event_time":%d,"terminal":"t","amount":1.5}' % (ts, ts * day), ts * day
        )
        for ts in (1, 20, 40)
    ]
    view = view_of(written_by(stage, values), "customer")
    assert [row["event_time"] for _, row in view.rows("c1")] == [20 * day, 40 * day]


def test_a_key_is_shown_without_its_neighbours(logs: dict[int, list[Record]]) -> None:
    view = view_of(logs, "customer")
    assert {row["key"] for _, row in view.rows("c7")} == {"c7"}
    assert list(view.rows("c")) == []


def test_state_of_another_definition_is_refused(logs: dict[int, list[Record]]) -> None:
    features = FRAUD.features.model_copy(update={"allowed_lateness": 1})
    other = FRAUD.model_copy(update={"features": features})
    view = state_view(other, "customer", lambda topic, only: ListReader(topic, logs, only), print)
    for read in (view.summaries, view.rows):
        with pytest.raises(StateCorrupt, match="another definition"):
            list(read())


def test_a_stage_that_the_pipeline_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigurationError, match="no feature stage 'shop'") as refused:
        view_of({}, "shop")
    assert "customer, terminal, outcomes" in refused.value.hint


def test_a_stage_without_a_changelog_is_refused_with_a_next_step() -> None:
    forgetful = FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"state": "memory"})})
    with pytest.raises(ConfigurationError, match="in memory only") as refused:
        state_view(forgetful, "customer", lambda topic, only: ListReader(topic, {}, only), print)
    assert "features.state: kafka" in refused.value.hint


@pytest.mark.parametrize("name", ["arrival", "label", "kind", "partition"])
def test_a_field_never_takes_the_place_of_another_column(name: str) -> None:
    mean = {"name": "mean", "aggregate": "mean", "field": name, "window": "1d"}
    stage = StageSpec.model_validate({"entity": "customer", "features": [mean]})
    event = FRAUD.event.model_copy(update={"numbers": {name: FRAUD.event.numbers["amount"]}})
    features = FRAUD.features.model_copy(update={"stages": (stage,)})
    pipeline = FRAUD.model_copy(update={"event": event, "features": features})
    value = orjson.dumps({"id": "e1", "event_time": NOON, "customer": "c1", "terminal": "t", name: 2.5})
    logs = written_by(keyed_stage(pipeline, 0), [OutRecord("fraud-events", b"c1", value, NOON)])
    view = state_view(pipeline, "customer", lambda topic, only: ListReader(topic, logs, only), print)
    ((_, row),) = view.rows("c1")
    assert list(row) == list(view.holdings.columns)
    assert "partition" not in row, "that column says where the row lies"
    assert (row["arrival"], row["kind"], row["label"], row[f"field.{name}"]) == (0, "event", None, 2.5)


def test_readers_are_closed(logs: dict[int, list[Record]]) -> None:
    opened: list[ListReader] = []

    def open_reader(topic: str, only: int | None) -> ListReader:
        opened.append(ListReader(topic, logs, only))
        return opened[-1]

    list(state_view(FRAUD, "customer", open_reader, print).summaries())
    assert len(opened) == PARTITIONS + 1
    assert all(reader.closed for reader in opened)


def test_the_join_shows_the_labels_and_scores_that_wait() -> None:
    labels = [record for record in STREAM if record.topic == "fraud-labels" and b'"end' not in (record.value or b"")]
    score = b'{"id":"p3","event_time":1522540800000,"model_version":2,"outputs":{"score":0.25}}'
    logs = written_by(
        OutcomeStage(FRAUD, join_metrics(FRAUD)), [*labels, OutRecord("fraud-shadow", b"c1", score, 1_522_540_800_000)]
    )
    view = view_of(logs, "outcomes")
    shown = {(row["key"], row["label"], row["known_at"]) for _, row in view.rows() if row["kind"] == "label"}
    expected = [orjson.loads(record.value or b"") for record in labels]
    in_time = [row for row in expected if row["known_at"] <= row["event_time"] + FRAUD.outcomes.maturity]
    assert shown == {(row["id"], row["fraud"], row["known_at"]) for row in in_time}
    scores = [(row["key"], row["model_version"], row["score"]) for _, row in view.rows() if row["kind"] == "shadow"]
    assert scores == [("p3", 2, 0.25)]
    assert {summary.key for _, summary in view.summaries()} == {key for key, _, _ in shown} | {"p3"}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(logs: dict[int, list[Record]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def open_readers(servers: str | None, _: str | None) -> Any:
        return lambda topic, *, only: ListReader(topic, logs, None if only is None else next(iter(only)))

    monkeypatch.setattr(state, "open_readers", open_readers)

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["state", *arguments])
        return (int(left.value.code or 0), *capsys.readouterr())

    return command


def test_ls_lists_the_largest_keys_first(run: Run, accepted: list[dict[str, Any]]) -> None:
    code, out, err = run("ls", "fraud", "--stage", "customer", "--limit", "3", "--json")
    report = json.loads(out)
    rows = Counter(row["customer"] for row in accepted)
    assert code == 0
    assert (report["keys"], report["rows"]) == (len(rows), len(accepted))
    assert [key["rows"] for key in report["listed"]] == sorted(rows.values(), reverse=True)[:3]
    assert "partition 2 of 2" in err
    code, out, _ = run("ls", "fraud", "--stage", "customer", "--order", "key")
    assert f"{len(rows)} keys of customer" in out
    assert out.index("c1 ") < out.index("c10 ")


def test_show_prints_every_row_or_says_that_there_is_no_such_key(run: Run) -> None:
    code, out, _ = run("show", "fraud", "c7", "--stage", "customer", "--json")
    assert code == 0
    assert {row["key"] for row in json.loads(out)["rows"]} == {"c7"}
    code, out, _ = run("show", "fraud", "c7", "--stage", "customer")
    assert (code, "2018-04-" in out) == (0, True)
    code, out, err = run("show", "fraud", "c77", "--stage", "customer")
    assert (code, out) == (2, "")
    assert "error: the stage customer of fraud holds no key 'c77'" in err


def test_export_writes_every_row(run: Run, tmp_path: Path, accepted: list[dict[str, Any]]) -> None:
    file = tmp_path / "rows.parquet"
    code, out, _ = run("export", "fraud", "--stage", "customer", "--to", str(file), "--json")
    table = pq.read_table(file).to_pydict()
    assert (code, json.loads(out)["rows"]) == (0, len(accepted))
    amounts = [amount for amount in table["amount"] if amount is not None]
    assert sorted(amounts) == sorted(row["amount"] for row in accepted if "amount" in row)
    assert not list(tmp_path.glob("*.part"))


def test_no_kafka_named_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["state", "ls", "fraud", "--stage", "customer"])
    assert left.value.code == 2
    assert "no Kafka is named" in capsys.readouterr().err
