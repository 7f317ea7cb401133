"""Steps 3 to 6 of the commit protocol for one micro-batch, and the decision when it is due."""

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import IntEnum

from tidemill.runtime.deadline import Deadline
from tidemill.runtime.dlq import to_record
from tidemill.runtime.ports import AbortedError, LogClient, Partition
from tidemill.runtime.service import Output, OutRecord
from tidemill.runtime.spec import ServiceSpec


class Step(IntEnum):
    """The commit protocol; services/README.md has the same numbers, and a test kills a process after each."""

    POLLED = 1
    ADDED = 2
    BEGUN = 3
    PRODUCED = 4
    OFFSETS_SENT = 5
    COMMITTED = 6
    REWOUND = 7


_LATEST_SHARE = 0.2
_LONGEST_GROWN_GAP_S = 0.05

AfterStep = Callable[[Step], None]


class Pace:
    """When the next transaction may begin. Pure.

    At low load a short gap after the last one lets records gather and the brokers write their markers. Where
    transactions take long the machine or the brokers are busy, and the gap grows with them, so that stages do not
    drown in each other's transactions; with a backlog there is no gap at all, and batches grow by themselves.
    """

    def __init__(self, gap_s: float, backlog_records: int) -> None:
        self._gap_s = gap_s
        self._backlog_records = backlog_records
        self._typical_s = 0.0
        self._finished_at = float("-inf")

    def finished(self, now: float, seconds: float) -> None:
        """A transaction has ended; it took `seconds`."""
        self._typical_s += (seconds - self._typical_s) * _LATEST_SHARE
        self._finished_at = now

    def due_at(self, pending_records: int) -> float:
        """Monotonic time from which work of this size may be committed."""
        if pending_records >= self._backlog_records:
            return float("-inf")
        return self._finished_at + max(self._gap_s, min(self._typical_s, _LONGEST_GROWN_GAP_S))


def foreign(positions: Collection[Partition], owned: Collection[Partition]) -> list[Partition]:
    """Partitions with records in the transaction that are not owned now. Any one of them spoils all of it: to leave
    out its offset would commit outputs that the new owner repeats."""
    return sorted(set(positions) - set(owned))


def run_transaction(
    log: LogClient,
    spec: ServiceSpec,
    output: Output,
    positions: Mapping[Partition, int],
    notes: Mapping[Partition, str],
    deadline: Deadline,
    after: AfterStep,
) -> None:
    """Steps 3 to 6. Raises AbortedError (abort, then rewind) or ProducerLostError (recover, then rewind)."""
    log.begin()
    after(Step.BEGUN)
    log.produce(_everything(output, spec))
    after(Step.PRODUCED)
    if strangers := foreign(positions, log.owned()):
        raise AbortedError(f"records of partitions that are not owned any more: {strangers}")
    if positions:
        log.send_offsets(positions, deadline, notes)
    after(Step.OFFSETS_SENT)
    log.commit(deadline)
    after(Step.COMMITTED)


def _everything(output: Output, spec: ServiceSpec) -> Iterator[OutRecord]:
    """Step 4: outputs, then dirty state (to the partition it belongs to), then dead letters."""
    yield from output.records
    if output.state:
        if spec.state_topic is None:
            raise ValueError(f"{spec.name} returned state but has no state topic")
        topic = spec.state_topic
        for partition, key, value in output.state:
            yield OutRecord(topic, key, value, 0, partition)
    for dead in output.dead:
        yield to_record(dead, spec.dlq_topic, spec.name)
