"""What a service implements, and the records that pass between it and the loop.

A service never polls, commits or produces: the loop alone does. It is called from one thread, the owner thread.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeVar


class Record(NamedTuple):
    """One record read from a topic. `timestamp` is the Kafka timestamp in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class OutRecord(NamedTuple):
    """One record to write. `partition` −1 lets the key choose (murmur2, as Java producers do)."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp: int
    partition: int = -1
    headers: tuple[tuple[str, bytes], ...] = ()


class StateEntry(NamedTuple):
    """One changelog record, for partition `partition` of the service's changelog; `value` None deletes the key."""

    partition: int
    key: bytes
    value: bytes | None


class DeadLetter(NamedTuple):
    """A bad input record with its reason; the loop writes it to the DLQ with its original bytes."""

    record: Record
    code: str
    message: str


_Row = TypeVar("_Row", bound=tuple[object, ...])


def rows_of(kind: type[_Row], *columns: Iterable[object]) -> list[_Row]:
    """Many of one of these records at once, from an iterable for *every* field, in their order; as long as the
    shortest. A third of the cost of calling `kind` for each."""
    return list(map(partial(tuple.__new__, kind), zip(*columns, strict=False)))


@dataclass(slots=True)
class Output:
    """Everything one transaction writes besides offsets."""

    records: list[OutRecord] = field(default_factory=list)
    state: list[StateEntry] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


class Service(Protocol):
    """One stage of a pipeline, driven by the loop in this order: restore → (add → flush → committed)* → drop.

    Guarantee asked of an implementation: after `restore` with the entries that were committed, the same records give
    the same output, whatever their batching.
    """

    def add(self, records: Sequence[Record], now: float) -> None:
        """Take released records, in order. `now` is monotonic seconds. May hand work to a worker thread."""
        ...

    def wake_at(self) -> float | None:
        """When `flush` has something to do even if no record comes (monotonic seconds), or None."""
        ...

    def flush(self, now: float) -> Output:
        """Everything that the records added so far lead to. May block until a worker thread has finished them."""
        ...

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace the state of `partition` by these committed changelog entries (latest value a key, none deleted)."""
        ...

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget state and unflushed work of `partitions`: they were revoked, lost, or are about to be restored."""
        ...

    def committed(self) -> None:
        """The transaction that held the last `flush` is definite."""
        ...

    def close(self) -> None:
        """Release threads and files. Called once, after the last transaction."""
        ...
