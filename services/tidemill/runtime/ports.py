"""What the loop asks of a log: one consumer-group member and one transactional producer, behind one interface.

`runtime/kafka.py` implements it on a real Kafka, `runtime/memory.py` in memory; both pass the same behavioural suite.
All methods are called from the owner thread; each blocks at most as long as it says.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tidemill.errors import TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.service import OutRecord, Record

Partition = tuple[str, int]
"""A topic's name and a partition's number."""


class AbortedError(Exception):
    """The open transaction cannot be committed; abort it, rewind and go on."""


class ProducerLostError(Exception):
    """The producer is of no more use (fenced, timed out, unknown outcome): recover, then trust the log alone."""


class NotAnsweredError(TidemillError):
    """The brokers have not answered for a while, or not this member. Poll, and ask again."""


class Watermarks(NamedTuple):
    """The first offset a partition still has and the one that its next record will get."""

    low: int
    high: int


@dataclass(slots=True)
class Polled:
    """What one poll brought: records in each partition's order, and partitions whose end was reached after them, with
    the offset that reading has come to. Before it lies nothing that was not delivered, but perhaps markers or aborted
    records."""

    records: list[Record] = field(default_factory=list)
    ends: dict[Partition, int] = field(default_factory=dict)


class RebalanceListener(Protocol):
    """Told about ownership from inside `poll`; a partition is read from where `assigned` says."""

    def assigned(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """New partitions; returns the offset to start each at. May block for a restore."""
        ...

    def revoked(self, partitions: Collection[Partition]) -> None:
        """About to lose these in good order: this is the last moment to commit their work."""
        ...

    def lost(self, partitions: Collection[Partition]) -> None:
        """Already lost: nothing of these may be committed."""
        ...


class LogClient(Protocol):
    """A group member that reads, and writes in transactions."""

    def start(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Fence earlier producers of this identity (their open transaction is aborted) and join the group."""
        ...

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """Wait up to `timeout_s` for a first record, then take what is there, up to `max_records`."""
        ...

    def owned(self) -> frozenset[Partition]:
        """What this member owns at this moment."""
        ...

    def pause(self, partitions: Collection[Partition]) -> None: ...

    def resume(self, partitions: Collection[Partition]) -> None: ...

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Read these owned partitions from there on; what was fetched before is forgotten."""
        ...

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, int | None]:
        """Committed offsets, once no transaction that holds one is pending (stable); None where there is none. Raises
        NotAnsweredError."""
        ...

    def committed_notes(self, partitions: Collection[Partition]) -> dict[Partition, str]:
        """The `notes` that were committed with these partitions' offsets; those without one are left out. Raises
        NotAnsweredError."""
        ...

    def watermarks(self, partitions: Collection[Partition]) -> dict[Partition, Watermarks]: ...

    def high_watermarks(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """As last heard of with a fetch: free of charge, for the lag metric only."""
        ...

    def read_changelog(
        self, topic: str, partitions: Collection[int], progress: Callable[[int, int], None], keep_on: Callable[[], bool]
    ) -> dict[int, dict[bytes, bytes]]:
        """Latest committed value of each key, from the low watermark past every record below the high one.

        `progress(read, total)` is called now and then (offsets); `keep_on` false ends it with `InterruptedError`.
        """
        ...

    def begin(self) -> None: ...

    def produce(self, records: Iterable[OutRecord]) -> None: ...

    def send_offsets(
        self, offsets: Mapping[Partition, int], deadline: Deadline, notes: Mapping[Partition, str] | None = None
    ) -> None:
        """Put `offsets` (last processed + 1) into the transaction with the group metadata of this moment, each with its
        note beside it."""
        ...

    def commit(self, deadline: Deadline) -> None:
        """Returns only when the commit is definite. Raises AbortedError or ProducerLostError."""
        ...

    def abort(self) -> None:
        """Abort the open transaction, if any, so that nothing of it that is still under way can join the next. May take
        a minute. Raises ProducerLostError, or TidemillError where the brokers answer nothing."""
        ...

    def recover(self) -> None:
        """Replace the producer by a new one of the same identity. Raises Fenced if another process holds it."""
        ...

    def close(self) -> None:
        """Leave the group and close. A transaction that is open is aborted, at the latest when it times out."""
        ...
