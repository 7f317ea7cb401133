"""What the network can do between a service and its broker, by a proxy: nothing is lost, nothing comes twice."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaosharness.heldendtxn import By, Plan, exercise
from chaosharness.proxy import Proxy
from chaosharness.wire import Api
from support.brokers import KafkaUnderTest, soon, visible
from support.counting import expected
from support.countingruns import Revived, Traffic, create_topics
from support.polling import eventually
from tidemill.local.kafka import LocalKafka
from tidemill.local.machine import free_port
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.settings import writing_settings
from tidemill.runtime.service import OutRecord

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

HELD = 20
IMPATIENT = {"TIDEMILL_KAFKA_OPTIONS": json.dumps({"socket.timeout.ms": "1000"})}
Disturb = Callable[[Proxy, Callable[[], None]], None]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalKafka, int]]:
    port = free_port()
    with LocalKafka(tmp_path_factory.mktemp("kafka"), proxied_port=port) as broker:
        yield broker, port


@pytest.fixture
def proxy(broker: tuple[LocalKafka, int]) -> Iterator[Proxy]:
    kafka, port = broker
    with Proxy(port, kafka.upstream_port, seed=1) as proxy:
        yield proxy


@pytest.fixture
def kafka(broker: tuple[LocalKafka, int]) -> str:
    """The broker's own address, past the proxy."""
    return broker[0].bootstrap_servers


@pytest.mark.parametrize("by", ["silence", "reset"])
def test_a_late_end_of_a_transaction_never_touches_the_next_one(kafka: str, proxy: Proxy, unique: str, by: By) -> None:
    report = exercise(Plan(HELD, seed=1, by=by, name=unique), kafka, proxy, print)
    assert report["violations"] == [] and report["vacuous"] == []
    assert report["late_refused"] == report["released_inside"] == HELD


def test_an_operator_who_wants_quiet_logs_keeps_the_protection(kafka: str, proxy: Proxy, unique: str) -> None:
    plan = Plan(8, seed=1, by="reset", name=unique)
    report = exercise(plan, kafka, proxy, print, {"log_level": "2", "log.connection.close": "false"})
    assert report["violations"] == [] and report["late_refused"] == 8


def test_without_a_new_epoch_a_late_end_of_a_transaction_ends_the_next_one_half_written(
    kafka: str, proxy: Proxy, unique: str
) -> None:
    """The harness sees the anomaly in both directions: without this test, the one above proves nothing."""
    report = exercise(Plan(12, seed=1, by="reset", recycle=False, name=unique), kafka, proxy, print)
    assert report["late_obeyed"] == report["released_inside"] == 12
    half_committed = "its first half is visible 1 time(s), its second 0"
    half_aborted = "its first half is visible 0 time(s), its second 1"
    assert any(line.endswith(half_committed) for line in report["violations"]), "by a late commit"
    assert any(line.endswith(half_aborted) for line in report["violations"]), "by a late abort"


def test_a_record_of_an_aborted_transaction_that_comes_late_belongs_to_none(
    kafka: str, proxy: Proxy, unique: str
) -> None:
    """It arrives while the next transaction is open, at a partition to which that one has written nothing yet."""
    topic, broker = f"{unique}-out", KafkaUnderTest(kafka)
    broker.create_topic(topic, 2)
    settings = writing_settings(proxy.bootstrap_servers, {"socket.timeout.ms": "2000"})
    producer = TransactionalProducer(settings, unique)
    producer.start()
    write(producer, OutRecord(topic, b"k", b"first", 1_000, 0))
    producer.begin()
    proxy.hold(Api.PRODUCE)
    producer.produce([OutRecord(topic, b"k", b"late", 1_000, 0)])
    eventually(lambda: proxy.counts().get("held", 0) == 1)
    producer.abort()
    write(producer, OutRecord(topic, b"k", b"next", 1_000, 1))
    eventually(lambda: proxy.counts()["released"] == 1)
    write(producer, OutRecord(topic, b"k", b"last", 1_000, 0))
    producer.close()
    assert sorted(visible(broker, topic, 3)) == [b"first", b"last", b"next"]


def write(producer: TransactionalProducer, record: OutRecord) -> None:
    producer.begin()
    producer.produce([record])
    producer.commit(soon())


def slow(proxy: Proxy, send: Callable[[], None]) -> None:
    proxy.delay(15, jitter_ms=10)

    def long_enough() -> bool:
        send()
        return proxy.counts()["delayed"] > 500

    eventually(long_enough, every_s=0.1)


def broken_connections(proxy: Proxy, send: Callable[[], None]) -> None:
    def reset_some() -> bool:
        send()
        proxy.reset(share=0.5)
        return proxy.counts()["reset"] >= 30

    eventually(reset_some, every_s=0.2)


def _half_open(proxy: Proxy, send: Callable[[], None], **directions: bool) -> None:
    proxy.half_open(2.5, **directions)
    send()
    eventually(lambda: proxy.counts().get("swallowed_bytes", 0) > 0)
    eventually(proxy.healed)
    assert proxy.counts()["half_open"] >= 3


def mute_broker(proxy: Proxy, send: Callable[[], None]) -> None:
    _half_open(proxy, send, requests=False)


def silent_connections(proxy: Proxy, send: Callable[[], None]) -> None:
    _half_open(proxy, send)


def held_requests(proxy: Proxy, send: Callable[[], None]) -> None:
    proxy.hold(Api.END_TXN, count=5)

    def all_released() -> bool:
        send()
        return proxy.counts()["released"] >= 5

    eventually(all_released, within_s=60.0, every_s=0.2)
    assert proxy.counts()["late_refused"] == proxy.counts()["held"] == 5


@pytest.mark.parametrize("disturb", [slow, broken_connections, mute_broker, silent_connections, held_requests])
def test_a_service_behind_a_bad_network_neither_loses_nor_repeats(
    kafka: str, proxy: Proxy, unique: str, tmp_path: Path, disturb: Disturb
) -> None:
    straight = KafkaUnderTest(kafka)
    create_topics(straight, unique)
    traffic = Traffic(straight, unique)
    traffic.send(100)

    def all_arrived() -> bool:
        service.look()
        return len(traffic.arrived(kafka, unique)) >= len(traffic.sent)

    with Revived(tmp_path, proxy.bootstrap_servers, unique, **IMPATIENT) as service:
        eventually(all_arrived, within_s=40.0)
        disturb(proxy, lambda: traffic.send(100))
        proxy.delay(0)
        traffic.send(100)
        eventually(all_arrived, within_s=90.0)
        service.stop()
    # A half-open connection can still hang librdkafka's send_offsets_to_transaction (its issue 5456).
    assert service.restarts == 0 or disturb in (mute_broker, silent_connections), "it came through by itself"
    assert traffic.arrived(kafka, unique) == expected(traffic.sent)
