"""Deliberate breakages of the runtime, applied in a victim's process only: each must be caught by the audit.

A mutant that survives is a hole in the audit, not a pass.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from confluent_kafka import TopicPartition

from tidemill.inference.shell import InferenceService
from tidemill.runtime import changelog, loop, transaction
from tidemill.runtime.dlq import to_record
from tidemill.runtime.kafka import PlainProducer, client
from tidemill.runtime.kafka.client import KafkaClient
from tidemill.runtime.loop import Loop
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Output, Record
from tidemill.runtime.sync import Merge

MUTANT = "TIDEMILL_CHAOS_MUTANT"
"""Environment variable of a victim that names the breakage."""


def apply_mutant(name: str) -> None:
    """Break the runtime in this process. Raises KeyError for an unknown name."""
    MUTANTS[name]()


def auto_commit() -> None:
    """The consumer commits what it has handed out by itself, every 20 ms."""
    made = client._member_settings

    def settings(identity: Any) -> dict[str, Any]:
        auto = {"enable.auto.commit": True, "enable.auto.offset.store": True, "auto.commit.interval.ms": 20}
        return {**made(identity), **auto}

    client._member_settings = settings


def offsets_outside() -> None:
    """Offsets are committed after the transaction, in a call of their own."""
    kept: dict[int, Mapping[Partition, int]] = {}
    commit = KafkaClient.commit

    def send_offsets(self: KafkaClient, offsets: Mapping[Partition, int], deadline: Any, notes: Any) -> None:
        kept[id(self)] = dict(offsets)

    def commit_then_offsets(self: KafkaClient, deadline: Any) -> None:
        commit(self, deadline)

    ran = loop.run_transaction

    def run(log: Any, *arguments: Any) -> None:
        ran(log, *arguments)  # the failpoint behind the commit lies in here, before the offsets go
        offsets = kept.pop(id(log), {})
        positions = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        log._member.commit(offsets=positions, asynchronous=False)

    KafkaClient.send_offsets = send_offsets  # type: ignore[method-assign]
    KafkaClient.commit = commit_then_offsets  # type: ignore[method-assign]
    loop.run_transaction = run


def no_rewind() -> None:
    """After an abort, state is restored but reading goes on where it was."""
    KafkaClient.seek = lambda self, positions: None  # type: ignore[method-assign]
    own = Merge.own
    begun: set[Partition] = set()

    def own_once(self: Merge, positions: Mapping[Partition, int], times: Mapping[Partition, int], now: float) -> None:
        own(self, {at: offset for at, offset in positions.items() if at not in begun}, times, now)
        begun.update(positions)

    Merge.own = own_once  # type: ignore[method-assign]


def stale_group_metadata() -> None:
    """The group's generation is asked for once and used for ever."""
    held: dict[int, Any] = {}

    def send_offsets(self: KafkaClient, offsets: Mapping[Partition, int], deadline: Any, notes: Any) -> None:
        metadata = held.setdefault(id(self), self._member.consumer_group_metadata())
        self._producer.send_offsets(offsets, metadata, deadline, notes)

    KafkaClient.send_offsets = send_offsets  # type: ignore[method-assign]


def keeps_what_was_revoked() -> None:
    """A rebalance takes partitions away and the instance goes on with what it had of them."""
    Loop.revoked = lambda self, partitions: None  # type: ignore[method-assign]
    transaction.foreign = lambda positions, owned: []


def state_before_commit() -> None:
    """After an abort only the position goes back; the state keeps what the transaction had added."""
    take = changelog.Takeover.take
    taken: set[int] = set()

    def take_once(self: Any, partitions: Collection[Partition], keep_on: Callable[[], bool]) -> Any:
        numbers = {number for _, number in partitions}
        if numbers <= taken:
            return changelog.Taken(self._log.committed(partitions), {})
        taken.update(numbers)
        return take(self, partitions, keep_on)

    changelog.Takeover.take = take_once  # type: ignore[method-assign]


def dead_letters_outside() -> None:
    """Dead letters go out by a producer of their own, before the transaction commits."""
    ran = loop.run_transaction
    writers: dict[int, PlainProducer] = {}

    def run(log: Any, spec: Any, output: Output, *arguments: Any) -> None:
        if output.dead:
            writer = writers.setdefault(id(log), PlainProducer(log._identity.bootstrap_servers))
            for dead in output.dead:
                writer.send(to_record(dead, spec.dlq_topic, spec.name))
            writer.flush()
        ran(log, spec, Output(output.records, output.state, []), *arguments)

    loop.run_transaction = run


def position_as_offset() -> None:
    """What is committed is where the consumer stands, not what was processed."""

    def send_offsets(self: KafkaClient, offsets: Mapping[Partition, int], deadline: Any, notes: Any) -> None:
        asked = self._member.position([TopicPartition(*partition) for partition in offsets])
        found = {(at.topic, at.partition): at.offset for at in asked}
        ahead = {at: max(offset, found.get(at, -1)) for at, offset in offsets.items()}
        self._producer.send_offsets(ahead, self._member.consumer_group_metadata(), deadline, notes)

    KafkaClient.send_offsets = send_offsets  # type: ignore[method-assign]


def assign_not_subscribe() -> None:
    """Every instance takes all partitions by itself, outside any group protocol."""

    def start(self: KafkaClient, topics: Sequence[str], listener: Any) -> None:
        self._producer.start()
        self._listener = listener
        self._consumer = member = client.Consumer(client._member_settings(self._identity))
        every = [
            TopicPartition(topic, number) for topic in topics for number in client.partition_numbers(member, topic)
        ]
        self._on_assign(member, every)

    KafkaClient.start = start  # type: ignore[method-assign]


def dead_letter_lost_on_abort() -> None:
    """A dead letter that was produced counts as written, also where the transaction was aborted."""
    ran = loop.run_transaction
    told: set[tuple[str, int, int]] = set()

    def run(log: Any, spec: Any, output: Output, *arguments: Any) -> None:
        fresh = [dead for dead in output.dead if _place(dead.record) not in told]
        told.update(_place(dead.record) for dead in output.dead)
        ran(log, spec, Output(output.records, output.state, fresh), *arguments)

    loop.run_transaction = run


def restore_stopped_early() -> None:
    """A takeover is content with the first half of the keys."""
    read = KafkaClient.read_changelog

    def read_half(self: KafkaClient, *arguments: Any) -> dict[int, dict[bytes, bytes]]:
        whole = read(self, *arguments)
        return {number: dict(islice(latest.items(), len(latest) // 2)) for number, latest in whole.items()}

    KafkaClient.read_changelog = read_half  # type: ignore[method-assign]


def state_not_written() -> None:
    """One changelog record in seven is left out of its transaction."""
    everything = transaction._everything

    def most(output: Output, spec: Any) -> Iterator[Any]:
        kept = [entry for number, entry in enumerate(output.state) if number % 7]
        return everything(Output(output.records, kept, output.dead), spec)

    transaction._everything = most


def reads_uncommitted() -> None:
    """Records of open and aborted transactions are taken for input."""
    made = client._member_settings
    client._member_settings = lambda identity: {**made(identity), "isolation.level": "read_uncommitted"}


def swap_not_recorded() -> None:
    """A new model scores at once, and nothing says from where on."""
    route = InferenceService._route

    def unrecorded(self: InferenceService, partition: int, offset: int) -> Any:
        return route(self, partition, offset)[0], None

    InferenceService._route = unrecorded  # type: ignore[method-assign]


def out_of_order() -> None:
    """A release hands its records on backwards."""
    release = Merge.release

    def backwards(self: Merge, *arguments: Any) -> Any:
        released = release(self, *arguments)
        released.records.reverse()
        return released

    Merge.release = backwards  # type: ignore[method-assign]


def commits_without_outputs() -> None:
    """After an abort the offsets of the aborted transaction are committed with the next one."""
    ran = loop.run_transaction
    held: dict[Partition, int] = {}

    def run(log: Any, spec: Any, output: Output, positions: Mapping[Partition, int], *arguments: Any) -> None:
        ahead = {at: max(offset, held.get(at, 0)) for at, offset in positions.items()}
        held.update(ahead)
        ran(log, spec, output, ahead, *arguments)

    loop.run_transaction = run


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _named(functions: Iterable[Callable[[], None]]) -> dict[str, Callable[[], None]]:
    return {function.__name__.replace("_", "-"): function for function in functions}


FAULTS_FOR: dict[str, str] = {
    "no-rewind": "usurp",
    "state-before-commit": "usurp",
    "dead-letter-lost-on-abort": "usurp",
    "commits-without-outputs": "kill,usurp",
    "stale-group-metadata": "storm",
    "keeps-what-was-revoked": "storm",
    "assign-not-subscribe": "storm",
}
"""What brings a breakage to light, where it is more than kills."""

STANDS_STILL = frozenset({"stale-group-metadata"})
"""Kafka itself refuses the offsets of a stale generation: such a runtime writes nothing wrong, but nothing more."""

MUTANTS = _named(
    [
        auto_commit,
        offsets_outside,
        no_rewind,
        stale_group_metadata,
        keeps_what_was_revoked,
        state_before_commit,
        dead_letters_outside,
        position_as_offset,
        assign_not_subscribe,
        dead_letter_lost_on_abort,
        restore_stopped_early,
        state_not_written,
        reads_uncommitted,
        swap_not_recorded,
        out_of_order,
        commits_without_outputs,
    ]
)
