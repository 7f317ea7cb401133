"""The whole loop on librdkafka's mock cluster: one answer of each reaction in support/errorcells.py, to its end."""

from collections import Counter
from collections.abc import Iterator, Sequence
from threading import Event, Thread

import pytest
from confluent_kafka import KafkaError

from support.counting import Counting
from support.mockcluster import MockCluster, Request
from support.polling import eventually
from tidemill.runtime import loop as module
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.kafka import KafkaClient, KafkaIdentity, PlainProducer
from tidemill.runtime.loop import Loop
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import Output, OutRecord, Record
from tidemill.runtime.spec import ServiceSpec
from tidemill.runtime.transaction import Step

RECORDS = 5
GO_ON = [
    (Request.END_TXN, KafkaError.NOT_COORDINATOR, 0),
    (Request.TXN_OFFSET_COMMIT, KafkaError.ILLEGAL_GENERATION, 1),
    (Request.ADD_OFFSETS_TO_TXN, KafkaError.INVALID_PRODUCER_EPOCH, 1),
]
END = [
    (Request.ADD_OFFSETS_TO_TXN, KafkaError.INVALID_PRODUCER_EPOCH, 4, "TIDEMILL_INSTANCE"),
    (Request.ADD_PARTITIONS_TO_TXN, KafkaError.TOPIC_AUTHORIZATION_FAILED, 1, "may write to it"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        yield cluster


class Passing(Counting):
    """Keeps no state: what the mock cluster has of an aborted transaction would pass for a changelog."""

    def add(self, records: Sequence[Record], now: float) -> None:
        for record in records:
            self.counts.setdefault(record.partition, {})
        super().add(records, now)

    def flush(self, now: float) -> Output:
        output = super().flush(now)
        output.state.clear()
        return output


class Running:
    """A service on the mock cluster, its loop on a thread."""

    def __init__(self, cluster: MockCluster, prefix: str) -> None:
        self.servers = cluster.bootstrap_servers
        for role in ("in", "out", "dlq"):
            cluster.create_topic(f"{prefix}-{role}")
        self.spec = ServiceSpec(prefix, "count", (InputTopic(f"{prefix}-in"),), f"{prefix}-dlq")
        self.health = Health("count", Metrics({"pipeline": prefix, "service": "count"}), 0)
        self.steps: Counter[Step] = Counter()
        self.code: int | None = None
        self._service = Passing(f"{prefix}-out")
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        config = RuntimeConfig(bootstrap_servers=self.servers, pipeline=self.spec.pipeline)
        client = KafkaClient(KafkaIdentity(self.servers, self.spec.group))
        loop = Loop(client, self._service, self.spec, config, self.health)
        loop.after_step = lambda step: self.steps.update([step])
        self.code = loop.run(self._stop)

    def write(self) -> None:
        producer = PlainProducer(self.servers)
        for number in range(RECORDS):
            producer.send(OutRecord(self.spec.inputs[0].name, b"k", b"%d" % number, 1_000 + number, 0))
        producer.flush()
        producer.close()

    def committed(self) -> float:
        """Records in committed transactions: the mock cluster keeps no offsets of transactions."""
        labels = {"pipeline": self.spec.pipeline, "service": "count", "topic": self.spec.inputs[0].name}
        return self.health.metrics.registry.get_sample_value("tidemill_runtime_records_total", labels) or 0.0

    def transactions(self, result: str) -> float:
        labels = {"pipeline": self.spec.pipeline, "service": "count", "result": result}
        return self.health.metrics.registry.get_sample_value("tidemill_runtime_transactions_total", labels) or 0.0

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def running(cluster: MockCluster, unique: str) -> Iterator[Running]:
    made = Running(cluster, unique)
    try:
        eventually(lambda: made.health.ready)
        yield made
    finally:
        cluster.clear()
        made.stop()


@pytest.mark.parametrize(("request_", "error", "aborts"), GO_ON, ids=["repeated", "aborted", "producer lost"])
def test_the_loop_repairs_and_goes_on(
    cluster: MockCluster, running: Running, request_: Request, error: int, aborts: int
) -> None:
    cluster.fail_next(request_, error)
    running.write()
    eventually(lambda: running.committed() == RECORDS)
    eventually(lambda: running.transactions("committed") >= 1)
    assert running.transactions("aborted") == running.steps[Step.REWOUND] == aborts
    assert cluster.asked(request_) >= 2
    running.stop()
    assert running.code == 0


@pytest.mark.parametrize(("request_", "error", "code", "next_step"), END, ids=["fenced again", "never allowed"])
def test_the_loop_ends_where_repair_does_not_help(
    cluster: MockCluster,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request_: Request,
    error: int,
    code: int,
    next_step: str,
) -> None:
    monkeypatch.setattr(module, "_ABORTS_IN_A_ROW", 3)
    cluster.fail_next(request_, error, times=50)
    running.write()
    eventually(lambda: running.code is not None, within_s=40.0)
    assert running.code == code
    assert running.transactions("committed") == 0
    captured = capfd.readouterr()
    assert next_step in captured.out + captured.err
