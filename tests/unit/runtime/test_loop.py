"""The loop on the memory broker: exactly once through crashes, aborts and rebalances. A crash is an input."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.counting import Counting, expected
from tidemill import clock
from tidemill.domain.pipeline import BreakerSpec
from tidemill.errors import BreakerOpen, EnvironmentUnusable, Fenced, StateCorrupt
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.dlq import to_letter
from tidemill.runtime.health import Health
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker, MemoryClient
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.notes import Note, write_note
from tidemill.runtime.ports import AbortedError, NotAnsweredError, Partition, Polled
from tidemill.runtime.service import Output, OutRecord, StateEntry
from tidemill.runtime.spec import ServiceSpec
from tidemill.runtime.sync import Released
from tidemill.runtime.transaction import Step

CONFIG = RuntimeConfig(bootstrap_servers="none", pipeline="p", transaction_gap_ms=0, max_poll_records=7)


class CrashedError(BaseException):
    """The process died here."""


@dataclass(frozen=True)
class Crash:
    """An element of the input: the process dies after this step of the transaction that follows."""

    after: Step


@dataclass(frozen=True)
class Send:
    key: bytes
    value: bytes
    partition: int


@dataclass
class Stage:
    """A counting stage on a memory broker; `start` is a new process of it."""

    broker: MemoryBroker
    breaker: BreakerSpec | None = None
    replay: "FromTheStart | None" = None
    instance: int = 0
    crash_after: Step | None = None
    service_class: type[Counting] = Counting
    seen: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        inputs = (InputTopic("in"),)
        spec = ServiceSpec("p", "count", inputs, "dlq", "state", breaker=self.breaker, replay=self.replay)
        self.client: MemoryClient = self.broker.client(spec.group, self.instance)
        self.service = self.service_class("out")
        self.health = Health("count", Metrics({"pipeline": "p", "service": "count"}))
        self.loop = Loop(self.client, self.service, spec, CONFIG, self.health)
        self.loop.after_step = self._after
        self.client.start(["in"], self.loop)

    def turn(self, times: int = 12) -> None:
        """Go round often enough for everything that there is."""
        for _ in range(times):
            try:
                self.loop.turn()
            except CrashedError:
                self.start()

    def metric(self, name: str, **labels: str) -> float | None:
        constant = {"pipeline": "p", "service": "count"}
        return self.health.metrics.registry.get_sample_value(name, {**constant, **labels})

    def _after(self, step: Step) -> None:
        self.seen.append(step)
        if step is self.crash_after:
            self.crash_after = None
            raise CrashedError


class Homing(Counting):
    """Keeps something for all partitions in the state of one of them."""

    def flush(self, now: float) -> Output:
        output = super().flush(now)
        if output.records:
            output.state.append(StateEntry(0, b"home", b"1"))
        return output


class Forgetful(Counting):
    """Has its counts from the input alone."""

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        super().restore(partition, ())


class FromTheStart:
    """Replays everything, as a service without a changelog would."""

    def __init__(self, needs: Collection[Partition] = ()) -> None:
        self._needs = frozenset(needs)
        self.asked = 0

    def needs(self) -> frozenset[Partition]:
        return self._needs

    def replay_from(self, committed: Mapping[Partition, int]) -> Mapping[Partition, int]:
        self.asked += 1
        return dict.fromkeys(committed, 0)


@pytest.fixture
def broker() -> MemoryBroker:
    return new_broker()


def new_broker() -> MemoryBroker:
    broker = MemoryBroker()
    for name, partitions in {"in": 2, "out": 2, "state": 2, "dlq": 1}.items():
        broker.create_topic(name, partitions)
    return broker


def send(broker: MemoryBroker, *values: str, key: bytes = b"k", partition: int = 0) -> None:
    for value in values:
        broker.append(OutRecord("in", key, value.encode(), 1_000, partition))


def outputs(broker: MemoryBroker) -> list[bytes]:
    return sorted(record.value or b"" for record in broker.read("out"))


def test_a_transaction_goes_through_the_steps_in_order(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send(broker, "a")
    stage.turn(3)
    steps = [step for step in stage.seen if step is not Step.POLLED]
    assert steps == [Step.ADDED, Step.BEGUN, Step.PRODUCED, Step.OFFSETS_SENT, Step.COMMITTED]
    assert outputs(broker) == [b"k:1:a"]
    assert stage.service.commits == 1


def test_no_transaction_is_begun_without_input(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.turn()
    assert set(stage.seen) == {Step.POLLED}


def test_offsets_are_last_processed_plus_one_and_move_even_when_nothing_is_written(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.service.add = lambda records, now: None
    send(broker, "a", "b", "c")
    stage.turn()
    assert broker.group("p-count").offsets == {("in", 0): 3}


@given(
    st.lists(
        st.builds(Send, st.sampled_from([b"x", b"y", b"z"]), st.sampled_from([b"1", b"2"]), st.just(0))
        | st.builds(Crash, st.sampled_from(list(Step)[:6]))
        | st.just("turn"),
        max_size=40,
    )
)
@settings(deadline=None)
def test_whatever_crashes_every_record_counts_exactly_once(script: list[Send | Crash | str]) -> None:
    broker = new_broker()
    stage = Stage(broker)
    sent: list[tuple[bytes, bytes]] = []
    for element in script:
        if isinstance(element, Send):
            partition = element.key[0] % 2
            broker.append(OutRecord("in", element.key, element.value, 1_000 + len(sent), partition))
            sent.append((element.key, element.value))
        elif isinstance(element, Crash):
            stage.crash_after = element.after
        else:
            stage.turn(2)
    stage.turn(20)
    assert outputs(broker) == expected(sent)
    if sent:
        assert sum(broker.group("p-count").offsets.values()) == len(sent)


def test_after_an_abort_state_is_what_was_committed_and_the_records_come_again(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send(broker, "a")
    stage.turn()
    before = len(stage.service.dropped)

    def expel_once(step: Step) -> None:
        if step is Step.PRODUCED and len(stage.service.dropped) == before:
            stage.client.expel()

    stage.loop.after_step = expel_once
    send(broker, "b")
    stage.turn()
    assert outputs(broker) == [b"k:1:a", b"k:2:b"]
    assert stage.metric("tidemill_runtime_transactions_total", result="aborted") == 1
    assert stage.service.counts[0] == {b"k": 2}


def test_records_of_a_partition_that_is_not_owned_now_abort_the_whole_transaction(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.turn()
    owned = stage.client.owned
    stage.client.owned = lambda: owned() - {("in", 1)}
    send(broker, "a", partition=0)
    send(broker, "b", key=b"other", partition=1)
    stage.turn(1)
    assert outputs(broker) == []
    assert broker.group("p-count").offsets == {}
    stage.client.owned = owned
    stage.client.expel()
    stage.turn()
    assert outputs(broker) == [b"k:1:a", b"other:1:b"]


def test_open_work_is_committed_before_partitions_are_given_up(broker: MemoryBroker) -> None:
    first = Stage(broker)
    first.turn()
    first.loop._pace.due_at = lambda records: float("inf")
    send(broker, "a", partition=1)
    first.turn(2)
    assert outputs(broker) == [], "its gap never ends"
    second = Stage(broker, instance=1)
    for _ in range(4):
        first.turn(1)
        second.turn(1)
    assert outputs(broker) == [b"k:1:a"]
    assert second.service.counts == {1: {b"k": 1}}, "the new owner restored what the old one committed"
    assert first.service.counts.keys() == {0}


class Restoring(Counting):
    """Notes what it is asked to restore."""

    def __init__(self, out_topic: str) -> None:
        super().__init__(out_topic)
        self.restored: list[int] = []

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self.restored.append(partition)
        super().restore(partition, entries)


def rebalance(*stages: Stage) -> None:
    for _ in range(6):
        for stage in stages:
            stage.turn(1)


def test_what_a_rebalance_gives_back_at_once_is_not_restored(broker: MemoryBroker) -> None:
    first = Stage(broker, service_class=Restoring)
    send(broker, "a", partition=0)
    send(broker, "a", partition=1)
    first.turn()
    second = Stage(broker, instance=1, service_class=Restoring)
    rebalance(first, second)
    assert first.service.restored == [0, 1], "both at its start, and 0 was kept when 1 was handed over"
    assert second.service.restored == [1]
    assert first.service.counts == {0: {b"k": 1}}, "what another has is forgotten"
    send(broker, "b", partition=0)
    send(broker, "b", partition=1)
    rebalance(first, second)
    assert outputs(broker) == [b"k:1:a", b"k:1:a", b"k:2:b", b"k:2:b"]


def test_what_another_has_committed_for_meanwhile_is_restored(broker: MemoryBroker) -> None:
    stage = Stage(broker, service_class=Restoring)
    send(broker, "a", partition=0)
    send(broker, "a", partition=1)
    stage.turn()
    both = [("in", 0), ("in", 1)]
    stage.loop.revoked(both)
    # Slow to join again: meanwhile partition 1 had another owner, who committed and is gone.
    broker.group("p-count").notes["in", 1] = write_note(Note(1_000, "another-1"))
    broker.append(OutRecord("state", b"k", b"7", 0, 1))
    stage.loop.assigned(both)
    assert stage.service.restored == [0, 1, 1]
    assert stage.service.counts == {0: {b"k": 1}, 1: {b"k": 7}}


def test_nobody_keeps_state_that_is_not_given_back(broker: MemoryBroker) -> None:
    stage = Stage(broker, service_class=Restoring)
    send(broker, "a", partition=1)
    stage.turn()
    stage.loop.revoked([("in", 0), ("in", 1)])
    assert stage.service.counts.keys() == {0, 1}
    stage.loop.assigned([])
    assert stage.service.counts == {}


def test_nothing_is_kept_of_work_that_could_not_be_committed(broker: MemoryBroker) -> None:
    first = Stage(broker, service_class=Restoring)
    send(broker, "a", partition=0)
    first.turn()
    first.loop._pace.due_at = lambda records: float("inf")
    send(broker, "b", partition=0)
    first.turn(2)
    broker.fence("p-count-0")
    second = Stage(broker, instance=1, service_class=Restoring)
    rebalance(first, second)
    assert first.service.restored.count(0) >= 2
    del first.loop._pace.due_at
    rebalance(first, second)
    assert outputs(broker) == [b"k:1:a", b"k:2:b"]


def test_a_process_whose_id_is_taken_recovers_once_and_then_ends(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.turn()
    for value in ("a", "b"):
        broker.fence("p-count-0")
        send(broker, value)
        if value == "b":
            with pytest.raises(Fenced):
                stage.turn()
        else:
            stage.turn()
            assert outputs(broker) == [b"k:1:a"]


def test_dead_letters_travel_in_the_transaction_with_their_bytes(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send(broker, "a", "bad")
    stage.turn()
    (letter,) = broker.read("dlq")
    dead, service = to_letter(letter)
    assert (dead.record.topic, dead.record.offset, dead.record.value) == ("in", 1, b"bad")
    assert (dead.code, service) == ("bad_record", "count")
    assert stage.metric("tidemill_runtime_dead_letters_total", code="bad_record") == 1


def test_the_batch_that_trips_the_breaker_is_not_committed(broker: MemoryBroker) -> None:
    stage = Stage(broker, breaker=BreakerSpec(window_records=10, max_invalid_share=0.5))
    send(broker, *["a"] * 7)
    stage.turn()
    send(broker, *["bad"] * 14)
    with pytest.raises(BreakerOpen):
        stage.turn()
    assert broker.group("p-count").offsets == {("in", 0): 14}, "7 of 14 is the limit, the next 7 are beyond it"
    assert len(broker.read("dlq")) == 7


def send_in_a_transaction(broker: MemoryBroker, *values: str, partition: int = 0) -> None:
    """As every stage writes; behind the records stands a marker."""
    transaction = broker.begin("writer")
    for value in values:
        broker.append(OutRecord("in", b"k", value.encode(), 1_000, partition), transaction)
    broker.finish("writer", commit=True)


def test_a_partition_read_to_its_end_can_expire_whole_before_the_next_start(broker: MemoryBroker) -> None:
    first = Stage(broker)
    send_in_a_transaction(broker, "a", "b")
    stop = Event()
    first.loop.after_step = lambda step: stop.set() if step is Step.COMMITTED else None
    assert first.loop.run(stop) == 0
    assert broker.group("p-count").offsets == {("in", 0): 3}
    broker.trim(("in", 0), 3)
    send(broker, "c")
    Stage(broker).turn()
    assert outputs(broker) == [b"k:1:a", b"k:2:b", b"k:3:c"]


def test_an_end_is_committed_with_the_next_transaction_and_never_by_one_of_its_own(broker: MemoryBroker) -> None:
    stage = at_an_end_that_is_not_committed(broker)
    stage.service.wake_at = lambda: 0.0
    stage.turn()
    assert broker.group("p-count").offsets == {("in", 0): 1}
    assert stage.seen.count(Step.BEGUN) == 1
    send(broker, "b", partition=1)
    stage.turn()
    assert broker.group("p-count").offsets == {("in", 0): 2, ("in", 1): 1}


def test_an_end_is_committed_before_its_partition_is_handed_over(broker: MemoryBroker) -> None:
    first = at_an_end_that_is_not_committed(broker)
    broker.trim(("in", 0), 2)
    second = Stage(broker, instance=1)
    for _ in range(4):
        first.turn(1)
        second.turn(1)
    assert broker.group("p-count").offsets == {("in", 0): 2}
    assert (len(first.client.owned()), len(second.client.owned())) == (1, 1)


def at_an_end_that_is_not_committed(broker: MemoryBroker) -> Stage:
    """As on a real broker, which tells of the marker behind a record when that one is committed already."""
    stage = Stage(broker)
    send_in_a_transaction(broker, "a")
    poll = stage.client.poll
    stage.client.poll = lambda *asked: Polled((polled := poll(*asked)).records, dict.fromkeys(polled.ends, 0))
    stage.turn(3)
    assert broker.group("p-count").offsets == {("in", 0): 1}
    stage.client.poll = poll
    stage.client.seek({("in", 0): 1})
    stage.turn(1)
    return stage


def test_what_a_failing_process_had_read_is_not_committed_as_read_to_the_end(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send_in_a_transaction(broker, "a", "b")
    stage.service.add = lambda records, now: 1 / 0
    assert stage.loop.run(Event()) == 1
    assert broker.group("p-count").offsets == {}
    Stage(broker).turn()
    assert outputs(broker) == [b"k:1:a", b"k:2:b"]


def test_what_could_not_be_committed_before_a_rebalance_is_not_committed_as_read_to_the_end(
    broker: MemoryBroker,
) -> None:
    stage = Stage(broker)
    stage.turn(2)
    stage.loop._pace.due_at = lambda records: float("inf")
    send_in_a_transaction(broker, "a")
    stage.turn(2)
    send_offsets = stage.client.send_offsets

    def refuse(*_: object) -> None:
        stage.client.send_offsets = send_offsets
        raise AbortedError("once")

    stage.client.send_offsets = refuse
    stage.loop.revoked([("in", 1)])
    stage.loop.revoked([("in", 0)])
    assert stage.client.send_offsets is send_offsets
    assert broker.group("p-count").offsets == {}


def test_records_that_wait_keep_the_end_from_being_committed(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.turn(2)
    send_in_a_transaction(broker, "a", "b")
    stage.loop._merge.release = lambda now, limit: Released([], {}, {}, False)
    stop = Event()
    stage.loop.after_step = lambda step: stop.set() if stage.loop._merge.buffered else None
    assert stage.loop.run(stop) == 0
    assert broker.group("p-count").offsets == {}


def test_a_committed_offset_outside_its_log_is_refused_loudly(broker: MemoryBroker) -> None:
    send(broker, "a", "b", "c")
    stage = Stage(broker)
    broker.group("p-count").offsets[("in", 0)] = 1
    broker.trim(("in", 0), 2)
    with pytest.raises(StateCorrupt, match=r"\[2, 3\]"):
        stage.turn()


def test_a_partition_that_expired_whole_behind_the_offset_is_refused_with_the_command_to_go_on(
    broker: MemoryBroker,
) -> None:
    send(broker, "a", "b")
    stage = Stage(broker)
    broker.group("p-count").offsets[("in", 0)] = 1
    broker.trim(("in", 0), 2)
    with pytest.raises(StateCorrupt, match=r"offset 1 of in/0 .* \[2, 2\]: .* whole") as refused:
        stage.turn()
    assert "--group p-count --topic in:0 --reset-offsets --to-earliest --execute" in refused.value.hint


def test_a_committed_offset_beyond_the_log_is_refused_loudly(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    broker.group("p-count").offsets[("in", 0)] = 5
    with pytest.raises(StateCorrupt, match="outside its log"):
        stage.turn()


def test_state_whose_offsets_are_gone_is_refused_rather_than_counted_twice(broker: MemoryBroker) -> None:
    first = Stage(broker)
    send(broker, "a", "b")
    first.turn()
    broker.group("p-count").offsets.clear()
    with pytest.raises(StateCorrupt, match=r"state/0 holds state"):
        Stage(broker).turn()


def test_state_of_a_partition_without_a_record_of_its_own_brings_that_partitions_offset_along(
    broker: MemoryBroker,
) -> None:
    first = Stage(broker, service_class=Homing)
    send(broker, "a", partition=1)
    first.turn()
    assert broker.group("p-count").offsets == {("in", 1): 1, ("in", 0): 0}
    second = Stage(broker, service_class=Homing)
    second.turn()
    assert second.service.counts == {0: {b"home": 1}, 1: {b"k": 1}}


def test_state_is_not_refused_for_an_input_that_never_had_a_record(broker: MemoryBroker) -> None:
    first = Stage(broker)
    send(broker, "a", partition=1)
    first.turn()
    broker.append(OutRecord("state", b"home", b"1", 0, 0))  # as a version before wrote it
    second = Stage(broker)
    second.turn()
    assert second.service.counts == {0: {b"home": 1}, 1: {b"k": 1}}


def test_replayed_input_rebuilds_state_and_its_outputs_are_thrown_away(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send(broker, *"abcdefghij")
    send(broker, "k", partition=1, key=b"other")
    stage.turn()
    committed = outputs(broker)
    send(broker, "new")
    stage.replay = FromTheStart()
    stage.service_class = Forgetful
    stage.start()
    stage.loop.turn()
    assert not stage.health.ready
    stage.turn(20)
    assert outputs(broker) == sorted([*committed, b"k:11:new"])
    assert stage.health.ready


class Silent(MemoryClient):
    """Its brokers do not answer for a while; it counts how often it was polled meanwhile."""

    silent = 0
    polls = 0

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, int | None]:
        if self.silent:
            self.silent -= 1
            raise NotAnsweredError("no answer")
        return super().committed(partitions)

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        self.polls += 1
        return super().poll(max_records, timeout_s)


@pytest.mark.parametrize("unanswered", [1, 3])
def test_after_an_abort_it_polls_before_it_asks_again_what_is_committed(broker: MemoryBroker, unanswered: int) -> None:
    stage = Stage(broker)
    stage.turn(2)
    send(broker, "a")
    broker.fence("p-count-0")
    stage.client.__class__ = Silent
    stage.client.silent = unanswered
    stage.turn(8)
    assert stage.client.silent == 0
    assert stage.seen.count(Step.REWOUND) == 1
    assert outputs(broker) == [b"k:1:a"]


def test_brokers_that_never_answer_end_it(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    stage.turn(2)
    send(broker, "a")
    broker.fence("p-count-0")
    stage.client.__class__ = Silent
    stage.client.silent = 4
    before = stage.client.polls
    with pytest.raises(NotAnsweredError):
        stage.turn(8)
    assert stage.client.polls - before > 4, "a poll before each"
    assert outputs(broker) == []


BOTH = (("in", 0), ("in", 1))


def part_of_a_stage_that_needs_all(broker: MemoryBroker) -> tuple[Stage, Stage]:
    """It, once it was given a half and has seen that there are records; and the other that has the other half."""
    other = Stage(broker)
    other.turn(2)
    stage = Stage(broker, instance=1, replay=FromTheStart(BOTH))
    for _ in range(3):
        other.loop.turn()
        stage.loop.turn()
    send(broker, "a", partition=0)
    send(broker, "b", partition=1)
    stage.turn(3)
    return stage, other


def test_a_stage_that_needs_every_partition_reads_nothing_until_it_has_them(broker: MemoryBroker) -> None:
    stage, other = part_of_a_stage_that_needs_all(broker)
    assert stage.client.owned() == {("in", 1)}
    assert (stage.health.ready, outputs(broker)) == (False, [])
    assert "in/0" in stage.health.snapshot()["reason"]
    assert stage.client._paused == {("in", 1)}
    assert stage.replay is not None and stage.replay.asked == 0
    other.client.expel()
    stage.turn()
    assert (stage.health.ready, outputs(broker)) == (True, [b"k:1:a", b"k:1:b"])


def test_the_rest_may_come_while_it_keeps_the_part_that_it_has(broker: MemoryBroker) -> None:
    stage, other = part_of_a_stage_that_needs_all(broker)
    del broker.group("p-count").members[other.instance]
    stage.client._positions |= stage.loop.assigned([("in", 0)])  # as an incremental rebalance does
    stage.turn()
    assert (stage.health.ready, outputs(broker)) == (True, [b"k:1:a", b"k:1:b"])


def test_nor_does_it_read_on_once_a_part_is_taken_from_it(broker: MemoryBroker) -> None:
    stage = Stage(broker, replay=FromTheStart(BOTH), service_class=Forgetful)
    send(broker, "a", partition=1)
    stage.turn()
    stage.loop.revoked([("in", 0)])  # as an incremental rebalance does
    del stage.client._positions["in", 0]
    send(broker, "b", partition=1)
    stage.turn(3)
    assert (stage.health.ready, outputs(broker)) == (False, [b"k:1:a"])
    stage.client._positions |= stage.loop.assigned([("in", 0)])
    stage.turn()
    assert (stage.health.ready, outputs(broker)) == (True, [b"k:1:a", b"k:2:b"])


def test_one_that_never_gets_the_rest_ends_and_says_what_to_do(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, _ = part_of_a_stage_that_needs_all(broker)
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 59)
    stage.loop.turn()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 61)
    with pytest.raises(EnvironmentUnusable, match="all partitions") as failure:
        stage.loop.turn()
    assert "one instance of count" in failure.value.hint
    stage.loop.revoked([("in", 1)])
    stage.loop.assigned([])
    stage.loop.turn()
    assert stage.health.ready, "a standby has nothing to wait for"


def test_a_stop_commits_what_was_added_and_exits_zero(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    send(broker, "a")
    stop = Event()
    stage.loop._pace.due_at = lambda records: float("inf")
    stage.loop.after_step = lambda step: stop.set() if step is Step.ADDED else None
    assert stage.loop.run(stop) == 0
    assert outputs(broker) == [b"k:1:a"]
    assert stage.service.closed


def test_a_defect_in_a_service_ends_the_process_and_commits_nothing(
    broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage(broker)
    send(broker, "a")
    stage.service.flush = lambda now: 1 / 0
    assert stage.loop.run(Event()) == 1
    assert outputs(broker) == []
    assert broker.group("p-count").offsets == {}


def test_a_known_failure_gives_its_exit_code(broker: MemoryBroker) -> None:
    stage = Stage(broker)
    broker.group("p-count").offsets[("in", 0)] = 5
    assert stage.loop.run(Event()) == StateCorrupt.exit_code
