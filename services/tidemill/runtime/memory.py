"""A log in memory: partitions, transactions, groups, fencing, read_committed. For tests of the loop without a broker.

It passes the behavioural suite of the real client. It has no clock: where Kafka would wait for a time-out (a dead
member's session, an orphaned transaction), the time-out happens at once. One thread. Long because log, transactions
and groups are one machine: each decides what the others may show.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from zlib import crc32

from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.ports import AbortedError, Partition, Polled, ProducerLostError, RebalanceListener, Watermarks
from tidemill.runtime.service import OutRecord, Record


class _State(Enum):
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(eq=False)
class _Transaction:
    state: _State = _State.OPEN
    offsets: dict[tuple[str, Partition], int] = field(default_factory=dict)
    notes: dict[tuple[str, Partition], str] = field(default_factory=dict)
    partitions: set[Partition] = field(default_factory=set)


@dataclass(slots=True)
class _Entry:
    """One offset: a record, or a control record (None) that no reader sees."""

    record: Record | None
    transaction: _Transaction | None


@dataclass
class _Group:
    """Eager range assignment. A rebalance is complete once every member has given up what it had."""

    members: dict[int, "MemoryClient"] = field(default_factory=dict)
    generation: int = 0
    given_up: set[int] = field(default_factory=set)
    rebalancing: bool = False
    offsets: dict[Partition, int] = field(default_factory=dict)
    notes: dict[Partition, str] = field(default_factory=dict)


class MemoryBroker:
    """The shared part: topics, groups, and who may write as whom."""

    def __init__(self) -> None:
        self._logs: dict[Partition, list[_Entry]] = {}
        self._low: dict[Partition, int] = {}
        self._topics: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, _Transaction] = {}
        self._epochs: dict[str, int] = {}

    def create_topic(self, name: str, partitions: int) -> None:
        self._topics[name] = partitions
        for number in range(partitions):
            self._logs.setdefault((name, number), [])

    def client(self, group: str, instance: int = 0) -> "MemoryClient":
        return MemoryClient(self, group, instance)

    def append(self, record: OutRecord, transaction: _Transaction | None = None) -> None:
        """Write a record; without a transaction it is readable at once. Raises TidemillError for an unknown topic."""
        topic, key, value, timestamp, number, headers = record
        if topic not in self._topics:
            raise TidemillError(f"topic {topic} does not exist")
        if number < 0:
            number = crc32(key or b"") % self._topics[topic]
        log = self._logs[topic, number]
        log.append(_Entry(Record(topic, number, len(log), timestamp, key, value, headers), transaction))
        if transaction is not None:
            transaction.partitions.add((topic, number))

    def read(self, topic: str, *, committed: bool = True) -> list[Record]:
        """Everything in a topic, partition by partition; what a read_committed reader sees, unless told otherwise."""
        records = []
        for number in range(self._topics[topic]):
            end = self.stable_end((topic, number)) if committed else len(self._logs[topic, number])
            records += [record for record in self.slice((topic, number), 0, end, committed=committed) if record]
        return records

    def trim(self, partition: Partition, low: int) -> None:
        """Expire everything before offset `low`."""
        self._low[partition] = low

    # For MemoryClient

    def slice(self, partition: Partition, begin: int, end: int, *, committed: bool = True) -> list[Record | None]:
        """One element an offset; None where a read_committed reader sees nothing."""
        return [
            entry.record
            if not committed or entry.transaction is None or entry.transaction.state is _State.COMMITTED
            else None
            for entry in self._logs[partition][begin:end]
        ]

    def stable_end(self, partition: Partition) -> int:
        """The last stable offset: where the first open transaction begins."""
        for offset, entry in enumerate(self._logs[partition]):
            if entry.transaction is not None and entry.transaction.state is _State.OPEN:
                return offset
        return len(self._logs[partition])

    def watermarks(self, partition: Partition) -> Watermarks:
        if partition not in self._logs:
            raise TidemillError(f"partition {partition} does not exist")
        return Watermarks(self._low.get(partition, 0), len(self._logs[partition]))

    def fence(self, transactional_id: str) -> int:
        """A new epoch; what an earlier producer of this id has open is aborted."""
        orphan = self._open.pop(transactional_id, None)
        if orphan is not None:
            self._end(orphan, _State.ABORTED)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def time_out_transactions(self, group: str) -> None:
        """What the coordinator does with the open ones of a group's producers in the end: it aborts and fences them."""
        for identity in [identity for identity in self._open if identity.rpartition("-")[0] == group]:
            self.fence(identity)

    def is_current(self, transactional_id: str, epoch: int) -> bool:
        return self._epochs.get(transactional_id) == epoch

    def begin(self, transactional_id: str) -> _Transaction:
        self._open[transactional_id] = _Transaction()
        return self._open[transactional_id]

    def finish(self, transactional_id: str, *, commit: bool) -> None:
        transaction = self._open.pop(transactional_id)
        if commit:
            for (group, partition), offset in transaction.offsets.items():
                self.group(group).offsets[partition] = offset
                self.group(group).notes[partition] = transaction.notes[group, partition]
        self._end(transaction, _State.COMMITTED if commit else _State.ABORTED)

    def stable_offsets(self, name: str, partitions: Collection[Partition]) -> dict[Partition, int | None]:
        """A pending transaction with offsets of these would be waited for; here its time-out comes at once."""
        pending = [
            identity
            for identity, transaction in self._open.items()
            if any((name, partition) in transaction.offsets for partition in partitions)
        ]
        for identity in pending:
            self.fence(identity)
        return {partition: self.group(name).offsets.get(partition) for partition in partitions}

    def group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def partitions_of(self, topics: Iterable[str]) -> list[Partition]:
        return [(topic, number) for topic in topics for number in range(self._topics[topic])]

    def _end(self, transaction: _Transaction, state: _State) -> None:
        transaction.state = state
        for partition in transaction.partitions:
            self._logs[partition].append(_Entry(None, None))


class MemoryClient:
    """Implements LogClient. `poll` never waits."""

    def __init__(self, broker: MemoryBroker, group: str, instance: int) -> None:
        self._broker = broker
        self._name = group
        self._instance = instance
        self._transactional_id = f"{group}-{instance}"
        self._epoch = -1
        self._transaction: _Transaction | None = None
        self._topics: list[str] = []
        self._listener: RebalanceListener | None = None
        self._generation = -1
        self._positions: dict[Partition, int] = {}
        self._reported: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def start(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        self._epoch = self._broker.fence(self._transactional_id)
        self._topics, self._listener = list(topics), listener
        group = self._group
        self._generation = -1
        if self._instance in group.members:  # a static member that comes back: no rebalance
            group.members[self._instance] = self
        else:
            group.members[self._instance] = self
            self._rebalance()

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        self._serve_rebalance()
        polled = Polled()
        for partition in sorted(self._positions):
            if partition in self._paused:
                continue
            end = self._broker.stable_end(partition)
            for record in self._broker.slice(partition, self._positions[partition], end):
                if len(polled.records) == max_records:
                    return polled
                self._positions[partition] += 1
                if record is not None:
                    polled.records.append(record)
            if self._reported.get(partition) != end:
                self._reported[partition] = end
                polled.ends[partition] = end
        return polled

    def owned(self) -> frozenset[Partition]:
        return frozenset(self._positions)

    def pause(self, partitions: Collection[Partition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        self._paused.difference_update(partitions)

    def seek(self, positions: Mapping[Partition, int]) -> None:
        for partition, offset in positions.items():
            self._positions[partition] = offset
            self._reported.pop(partition, None)

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, int | None]:
        return self._broker.stable_offsets(self._name, partitions)

    def committed_notes(self, partitions: Collection[Partition]) -> dict[Partition, str]:
        found = {partition: self._group.notes.get(partition, "") for partition in partitions}
        return {partition: note for partition, note in found.items() if note}

    def watermarks(self, partitions: Collection[Partition]) -> dict[Partition, Watermarks]:
        return {partition: self._broker.watermarks(partition) for partition in partitions}

    def high_watermarks(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return {partition: self._broker.watermarks(partition).high for partition in partitions}

    def read_changelog(
        self, topic: str, partitions: Collection[int], progress: Callable[[int, int], None], keep_on: Callable[[], bool]
    ) -> dict[int, dict[bytes, bytes]]:
        latest: dict[int, dict[bytes, bytes]] = {}
        for number in partitions:
            if not keep_on():
                raise InterruptedError
            low, high = self._broker.watermarks((topic, number))
            entries = latest[number] = {}
            for record in self._broker.slice((topic, number), low, high):
                if record is not None and record.key is not None:
                    entries.pop(record.key, None)
                    if record.value is not None:
                        entries[record.key] = record.value
            progress(high - low, high - low)
        return latest

    def begin(self) -> None:
        self._check_epoch()
        if self._transaction is not None:
            raise ProducerLostError("begin: a transaction is open already")
        self._transaction = self._broker.begin(self._transactional_id)

    def produce(self, records: Iterable[OutRecord]) -> None:
        self._check_epoch()
        for record in records:
            self._broker.append(record, self._in_transaction)

    def send_offsets(
        self, offsets: Mapping[Partition, int], deadline: Deadline, notes: Mapping[Partition, str] | None = None
    ) -> None:
        self._check_epoch()
        group = self._group
        if group.members.get(self._instance) is not self or self._generation != group.generation:
            raise AbortedError("send offsets: ILLEGAL_GENERATION")
        self._in_transaction.offsets.update({(self._name, partition): at for partition, at in offsets.items()})
        self._in_transaction.notes.update({(self._name, at): (notes or {}).get(at, "") for at in offsets})

    def commit(self, deadline: Deadline) -> None:
        self._check_epoch()
        assert self._transaction is not None
        self._broker.finish(self._transactional_id, commit=True)
        self._transaction = None

    def abort(self) -> None:
        if self._transaction is not None:
            self._check_epoch()
            self._broker.finish(self._transactional_id, commit=False)
            self._transaction = None

    def recover(self) -> None:
        self._transaction = None
        self._epoch = self._broker.fence(self._transactional_id)

    def close(self) -> None:
        if self._listener is not None and self._positions:
            self._listener.revoked(sorted(self._positions))
        self.expel()
        self._positions.clear()

    def expel(self) -> None:
        """Drop this member from its group as a session time-out does: it hears of it with its next poll."""
        group = self._group
        if group.members.get(self._instance) is self:
            del group.members[self._instance]
            self._rebalance()

    @property
    def _group(self) -> _Group:
        return self._broker.group(self._name)

    @property
    def _in_transaction(self) -> _Transaction:
        assert self._transaction is not None, "begin() comes first"
        return self._transaction

    def _check_epoch(self) -> None:
        if not self._broker.is_current(self._transactional_id, self._epoch):
            raise ProducerLostError("INVALID_PRODUCER_EPOCH")

    def _rebalance(self) -> None:
        group = self._group
        group.rebalancing, group.given_up = True, set()
        if not group.members:
            group.rebalancing = False
            group.generation += 1

    def _serve_rebalance(self) -> None:
        group, listener = self._group, self._listener
        assert listener is not None, "start() comes first"
        holder = group.members.get(self._instance)
        if holder is None:
            self._give_up(listener.lost)
            group.members[self._instance] = self
            self._rebalance()
        elif holder is not self:
            raise Fenced(f"another process runs as instance {self._instance} of {self._name}")
        if group.rebalancing and self._instance not in group.given_up:
            self._give_up(listener.revoked)
            if group.members.get(self._instance) is not self:
                return  # its session ended meanwhile; it hears of it with its next poll
            group.given_up.add(self._instance)
            if group.given_up == group.members.keys():
                group.rebalancing = False
                group.generation += 1
        if not group.rebalancing and self._generation != group.generation:
            self._generation = group.generation
            share = self._share()
            starts = listener.assigned(share)
            self._positions = {partition: starts.get(partition, 0) for partition in share}

    def _give_up(self, tell: Callable[[Collection[Partition]], None]) -> None:
        if self._positions:
            tell(sorted(self._positions))
        self._positions.clear()
        self._reported.clear()
        self._paused.clear()

    def _share(self) -> list[Partition]:
        """Range: the same numbers of every topic."""
        members = sorted(self._group.members)
        place, share = members.index(self._instance), []
        for topic in self._topics:
            numbers = [number for _, number in self._broker.partitions_of([topic])]
            each, extra = divmod(len(numbers), len(members))
            begin = place * each + min(place, extra)
            share += [(topic, number) for number in numbers[begin : begin + each + (place < extra)]]
        return share
