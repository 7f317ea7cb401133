"""Faust has no setting for what it reads, so an internal of aiokafka is set; these notice when that fails."""

import inspect
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from tidemill.retrain.committed import read_committed


def test_the_consumer_that_faust_makes_reads_committed_records_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(_isolation_level="read_uncommitted")
    monkeypatch.setattr(AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: made)
    app = read_committed(faust.App("t", broker="kafka://127.0.0.1:1", autodiscover=False))
    consumer_class: Any = app.transport.Consumer
    stand_in: Any = SimpleNamespace(loop=None, beacon=None)
    monkeypatch.setattr(AIOKafkaConsumerThread, "__init__", lambda *_, **__: None)
    thread = consumer_class._new_consumer_thread(stand_in)
    assert thread._create_worker_consumer(None)._isolation_level == "read_committed"


def test_aiokafka_still_keeps_its_isolation_level_where_it_is_set() -> None:
    assert "isolation_level=self._isolation_level" in inspect.getsource(aiokafka.AIOKafkaConsumer.start)


def test_the_silence_of_a_changelog_is_no_stuck_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(AIOKafkaConsumerThread, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(AIOKafkaConsumerThread, "verify_event_path", lambda _, now, tp: checked.append(tp.topic))
    app = read_committed(faust.App("t", broker="kafka://127.0.0.1:1", autodiscover=False))
    app.Table("loop", partitions=1, changelog_topic=app.topic("t-state", partitions=1))
    consumer_class: Any = app.transport.Consumer
    stand_in: Any = SimpleNamespace(loop=None, beacon=None)
    thread = consumer_class._new_consumer_thread(stand_in)
    thread.consumer = SimpleNamespace(app=app)
    for topic in ("t-state", "t-drift"):
        thread.verify_event_path(0.0, SimpleNamespace(topic=topic, partition=0))
    assert checked == ["t-drift"]
