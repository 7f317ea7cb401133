"""`tidemill topics`, against a broker in memory."""

import json

import pytest
from topicadmin import MemoryTopics, as_existing

from tidemill.cli import topics as command
from tidemill.cli.__main__ import main
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.topics import plan

PLANNED = plan(load_pipeline("fraud"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryTopics:
    monkeypatch.delenv("TIDEMILL_BOOTSTRAP_SERVERS", raising=False)
    topics = MemoryTopics()
    monkeypatch.setattr(command, "connect", lambda servers, options, wait_s=0.0: topics)
    return topics


def test_plan_without_a_broker_lists_the_topics(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    code, out, err = run(capsys, "topics", "plan", "fraud")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["topic", *(topic.name for topic in PLANNED)]


def test_plan_as_json_gives_every_setting(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    _, out, _ = run(capsys, "topics", "plan", "fraud", "--json")
    report = json.loads(out)
    assert report.keys() == {"topics"}
    events = next(topic for topic in report["topics"] if topic["name"] == "fraud-events")
    assert events["configs"]["retention.ms"] == "-1"
    assert events["written_by"] == ["ingest"]


def test_plan_with_a_broker_says_what_apply_would_do_and_does_not_do_it(
    capsys: pytest.CaptureFixture[str], broker: MemoryTopics
) -> None:
    code, out, _ = run(capsys, "topics", "plan", "fraud", "--bootstrap-servers", "kafka:9092")
    assert code == 0
    assert out.splitlines()[0] == "create   fraud-by-terminal (4 partitions, delete)"
    assert broker.calls == []


def test_plan_exits_1_when_a_topic_conflicts(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    events = next(topic for topic in PLANNED if topic.name == "fraud-events")
    broker.topics[events.name] = as_existing(events)._replace(partitions=2)
    code, out, _ = run(capsys, "topics", "plan", "fraud", "--bootstrap-servers", "kafka:9092", "--json")
    assert code == 1
    assert {"action": "conflict", "topic": "fraud-events"}.items() <= json.loads(out)["actions"][7].items()


def test_apply_creates_them_and_is_quiet_the_second_time(
    capsys: pytest.CaptureFixture[str], broker: MemoryTopics
) -> None:
    code, out, err = run(capsys, "topics", "apply", "fraud", "--bootstrap-servers", "kafka:9092")
    assert (code, err, len(out.splitlines())) == (0, f"{len(PLANNED)} topics are ready\n", len(PLANNED))
    code, out, _ = run(capsys, "topics", "apply", "fraud", "--bootstrap-servers", "kafka:9092", "--json")
    assert (code, json.loads(out)["actions"]) == (0, [])


def test_apply_alters_and_extends(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    for topic in PLANNED:
        broker.topics[topic.name] = as_existing(topic)
    broker.topics["fraud-dlq"] = broker.topics["fraud-dlq"]._replace(partitions=2)
    drift = broker.topics["fraud-drift"]
    broker.topics["fraud-drift"] = drift._replace(configs={**drift.configs, "retention.ms": "1000"})
    _, out, _ = run(capsys, "topics", "apply", "fraud", "--bootstrap-servers", "kafka:9092")
    assert out.splitlines() == [
        "extend   fraud-dlq: 2 → 4 partitions",
        "alter    fraud-drift: retention.ms 1000 → -1",
    ]


def test_apply_refuses_a_conflict_with_2(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    events = next(topic for topic in PLANNED if topic.name == "fraud-events")
    broker.topics[events.name] = as_existing(events)._replace(partitions=9)
    code, out, err = run(capsys, "topics", "apply", "fraud", "--bootstrap-servers", "kafka:9092")
    assert (code, out, broker.calls) == (2, "", [])
    assert "fraud-events: it has 9 partitions, planned are 4" in err


def test_apply_without_a_broker_says_how_to_name_one(capsys: pytest.CaptureFixture[str], broker: MemoryTopics) -> None:
    code, _, err = run(capsys, "topics", "apply", "fraud")
    assert code == 2
    assert "--bootstrap-servers" in err


@pytest.mark.parametrize("options", ["{", "[]", '{"a": 1}'])
def test_kafka_options_that_are_no_object_of_texts_are_refused(
    capsys: pytest.CaptureFixture[str], broker: MemoryTopics, options: str
) -> None:
    arguments = ("--bootstrap-servers", "kafka:9092", "--kafka-options", options)
    code, _, err = run(capsys, "topics", "apply", "fraud", *arguments)
    assert code == 2
    assert err.startswith("error: --kafka-options is not")
