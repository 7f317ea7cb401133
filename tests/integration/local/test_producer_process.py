"""The producer as a process against a real broker: what its summary says is what the topics hold."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import until

from tidemill.local.kafka import LocalKafka
from tidemill.runtime.kafka import Admin, TopicReader
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record
from tidemill.runtime.topics import apply, plan
from tidemill.scenarios import catalog
from tidemill.scenarios.fraud.producerconfig import ProducerConfig
from tidemill.scenarios.fraud.producerrun import SENT_HEADER, parts, source_topic
from tidemill.scenarios.fraud.simulator import EPOCH_MS

pytestmark = pytest.mark.kafka
PIPELINE = load_pipeline("fraud")
EVENTS, LABELS = (source_topic(PIPELINE, kind) for kind in ("event", "label"))
WORLD: dict[str, str | int | float | bool] = {"customers": 500, "terminals": 2_000, "seed": 3}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path / "kafka", heap_mb=256) as kafka:
        yield kafka


def start(broker: LocalKafka, **options: str | int | float | bool) -> subprocess.Popen[bytes]:
    settings = {**WORLD, "bootstrap_servers": broker.bootstrap_servers, **options}
    command = catalog.get("fraud").producer_command(settings)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_producer_that_resumes_begins_after_what_the_topic_holds(broker: LocalKafka) -> None:
    apply(Admin(broker.bootstrap_servers), [topic for topic in plan(PIPELINE) if topic.name in (EVENTS, LABELS)])
    with start(broker, days=400, days_per_minute=120, bad_share=0.0, resume=True) as producer:
        labels = lambda: sum(record.topic == LABELS for record in everything(broker))  # noqa: E731
        until(lambda: labels() > 200, "chargebacks on their way", within_s=60)
        producer.kill()
    held = everything(broker)
    with start(broker, days=40, days_per_minute=0, bad_share=0.0, resume=True) as producer:
        assert producer.stdout is not None
        summary = json.loads(producer.stdout.read())
    assert producer.returncode == 0
    assert EPOCH_MS < summary["stream_from_ms"] <= max(record.timestamp for record in held)
    sent = [(record.topic, json.loads(record.value or b"")["payment_id"]) for record in everything(broker)]
    config = ProducerConfig.model_validate({**WORLD, "days": 40, "bad_share": 0.0})
    whole = next(parts(config, PIPELINE, EPOCH_MS)).manifest()
    assert len(set(sent)) == whole.payments + whole.chargebacks, "nothing between the two runs is left out"
    assert len(sent) - len(set(sent)) < len(sent) / 10


def everything(broker: LocalKafka) -> list[Record]:
    reader = TopicReader(broker.bootstrap_servers, [EVENTS, LABELS])
    try:
        records: list[Record] = []
        while not reader.at_end():
            records.extend(reader.poll(5_000, 1.0))
        return records
    finally:
        reader.close()


def test_a_producer_waits_for_its_topics_and_stops_on_sigterm_with_true_counts(broker: LocalKafka) -> None:
    topics = [topic for topic in plan(PIPELINE) if topic.name in (EVENTS, LABELS)]
    with start(broker, days=400, days_per_minute=400) as producer:
        assert producer.stderr is not None and producer.stdout is not None
        assert b"waiting for topics" in producer.stderr.readline()
        apply(Admin(broker.bootstrap_servers), topics)
        until(lambda: len(everything(broker)) > 1_000, "a thousand records", within_s=60)
        producer.send_signal(signal.SIGTERM)
        summary = json.loads(producer.stdout.read())
    assert producer.returncode == 0
    records = everything(broker)
    counts = Counter(record.topic for record in records)
    assert not summary["complete"]
    assert counts[EVENTS] == summary["payments"] + sum(summary["bad"].values())
    assert counts[LABELS] == summary["chargebacks"]
    assert max(record.timestamp for record in records) == summary["stream_until_ms"]
    assert all(record.headers and record.headers[0][0] == SENT_HEADER for record in records)
    assert all(float(record.headers[0][1]) > 1_600_000_000_000 for record in records)
    # One card's records are in one partition, alike for payments and chargebacks.
    homes = {(record.key, record.partition) for record in records}
    assert len(homes) == len({key for key, _ in homes})
