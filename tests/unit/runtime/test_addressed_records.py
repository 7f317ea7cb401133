"""A record that was put back is taken by the stage that refused it, and by no other that reads its topic."""

from collections.abc import Mapping

import pytest

from support.counting import Counting
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.dlq import ADDRESSEE, for_stage, stage_address
from tidemill.runtime.health import Health
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.spec import ServiceSpec

CONFIG = RuntimeConfig(bootstrap_servers="none", pipeline="p", transaction_gap_ms=0, max_poll_records=7)


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    for name in ("in", "dlq", *(f"{stage}-{role}" for stage in ("drift", "join") for role in ("out", "state"))):
        broker.create_topic(name, 1)
    return broker


class FromTheStart:
    def needs(self) -> frozenset[Partition]:
        return frozenset()

    def replay_from(self, committed: Mapping[Partition, int]) -> Mapping[Partition, int]:
        return dict.fromkeys(committed, 0)


def stage(broker: MemoryBroker, name: str, *, replay: bool = False) -> Loop:
    spec = ServiceSpec(
        "p", name, (InputTopic("in"),), "dlq", f"{name}-state", replay=FromTheStart() if replay else None
    )
    client = broker.client(spec.group)
    service = Counting(f"{name}-out")
    loop = Loop(client, service, spec, CONFIG, Health(name, Metrics({"pipeline": "p", "service": name})))
    client.start(["in"], loop)
    return loop


def send(broker: MemoryBroker, value: bytes, *headers: tuple[str, bytes]) -> None:
    broker.append(OutRecord("in", b"k", value, 1_000, 0, headers))


def values(broker: MemoryBroker, name: str) -> list[bytes | None]:
    return [record.value for record in broker.read(f"{name}-out")]


def test_others_that_read_the_topic_leave_it_alone_and_go_on_behind_it(broker: MemoryBroker) -> None:
    send(broker, b"a", ("trace", b"1"))
    send(broker, b"b", ("trace", b"2"), (ADDRESSEE, b"p-drift"))
    loops = [stage(broker, "drift"), stage(broker, "join")]
    for _ in range(4):
        for loop in loops:
            loop.turn()
    assert values(broker, "drift") == [b"k:1:a", b"k:2:b"]
    assert values(broker, "join") == [b"k:1:a"]
    assert broker.group("p-join").offsets == {("in", 0): 2}


def test_nor_does_a_stage_that_rebuilds_its_state_from_old_input_take_it(broker: MemoryBroker) -> None:
    send(broker, b"a")
    send(broker, b"b", (ADDRESSEE, b"p-drift"))
    first = stage(broker, "join")
    for _ in range(4):
        first.turn()
    again = stage(broker, "join", replay=True)
    restore = again._service.restore
    again._service.restore = lambda partition, entries: restore(partition, ())
    for _ in range(4):
        again.turn()
    send(broker, b"c")
    for _ in range(4):
        again.turn()
    assert values(broker, "join") == [b"k:1:a", b"k:2:c"]


def test_an_address_names_the_pipeline_and_no_version() -> None:
    assert stage_address("fraud", "features-customer-v12") == stage_address("fraud", "features-customer")
    records = [
        Record("in", 0, offset, 0, None, b"", headers)
        for offset, headers in enumerate(
            [(), ((ADDRESSEE, b"fraud-ingest"),), ((ADDRESSEE, b"other-ingest"),), (("x", b"y"),)]
        )
    ]
    assert [record.offset for record in for_stage(records, "fraud-ingest")] == [0, 1, 3]
    plain = records[:1]
    assert for_stage(plain, "fraud-ingest") is plain
