"""Takes partitions over: where to start, and the state as it was at that point."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from tidemill import clock
from tidemill.errors import StateCorrupt
from tidemill.runtime.health import Health
from tidemill.runtime.logs import get_logger
from tidemill.runtime.notes import Note, read_note
from tidemill.runtime.ports import LogClient, Partition
from tidemill.runtime.service import Service
from tidemill.runtime.spec import ServiceSpec

_PROGRESS_EVERY_S = 1.0
_EXPIRED_WHOLE = (
    ": it expired whole. Where transactions wrote it, the marker behind the last record that was read is among what is "
    "missing, and perhaps nothing else; what has expired cannot tell"
)
Commits = dict[Partition, str | None]
"""The name of the last commit of each partition of one number, None where there is none."""
_log = get_logger("changelog")


def go_on_at_the_beginning(group: str, partition: Partition) -> str:
    """The command that moves a stopped group to the first offset that a partition still has."""
    return (
        f"`kafka-consumer-groups.sh --bootstrap-server … --group {group} --topic {partition[0]}:{partition[1]} "
        "--reset-offsets --to-earliest --execute`"
    )


class Taken(NamedTuple):
    """What is committed for the partitions that were taken over."""

    offsets: dict[Partition, int | None]
    notes: dict[Partition, Note]


class Takeover:
    """Restores state from the changelog, in the one order that is safe: stable committed offsets first, so that a
    former owner's transaction is decided; then the changelog's high watermark; then every record below it.

    What a rebalance takes away and gives back is not read again: state and offsets are committed together, so where
    the last commit of every partition of a number is the one that was known when it was parted with, the state is too.
    """

    def __init__(self, log: LogClient, service: Service, spec: ServiceSpec, health: Health) -> None:
        self._log = log
        self._service = service
        self._spec = spec
        self._health = health
        self._parted: dict[int, Commits] = {}

    def part_with(self, partitions: Collection[Partition], notes: Mapping[Partition, Note]) -> None:
        """These are given up with all their work committed, every partition of their numbers. Their state stays until
        it is known who has them next; nothing may be added for them meanwhile."""
        self._parted |= _commits(partitions, notes)

    def forget_parted(self) -> None:
        """Others have what was parted with."""
        self._service.drop(sorted(self._parted))
        self._parted.clear()

    def take(self, partitions: Collection[Partition], keep_on: Callable[[], bool]) -> Taken:
        """Make the service's state of these partitions' numbers what is committed; returns what is.

        Raises StateCorrupt if an offset lies outside its log or is gone while its state is there, InterruptedError
        once `keep_on` is false.
        """
        self._health.set_ready(False, "restoring state")
        committed = self._log.committed(partitions)
        found = {at: read_note(text) for at, text in self._log.committed_notes(partitions).items()}
        notes = {at: note for at, note in found.items() if note is not None}
        now = _commits(partitions, notes)
        kept = {number for number, commits in now.items() if self._parted.get(number) == commits}
        numbers = sorted(now.keys() - kept)
        self._service.drop(sorted((now.keys() | self._parted.keys()) - kept))
        self._parted.clear()
        self._check(committed)
        started = clock.monotonic()
        if self._spec.state_topic is None:
            latest: dict[int, dict[bytes, bytes]] = {}
        else:
            latest = self._log.read_changelog(self._spec.state_topic, numbers, self._progress(started), keep_on)
            self._check_offsets_kept(committed, [number for number, entries in latest.items() if entries])
        for number in numbers:
            self._service.restore(number, latest.get(number, {}).items())
        seconds = clock.monotonic() - started
        self._health.metrics.set("tidemill_runtime_restore_seconds", seconds)
        _log.info(
            "partitions taken over",
            partitions=sorted(f"{topic}/{number}" for topic, number in partitions),
            keys=sum(len(entries) for entries in latest.values()),
            kept=sorted(kept),
            seconds=round(seconds, 3),
        )
        return Taken(committed, notes)

    def starts(self, committed: dict[Partition, int | None]) -> dict[Partition, int]:
        """Where to read from: the committed offset, or the first record that there still is."""
        fresh = [partition for partition, offset in committed.items() if offset is None]
        low = {partition: marks.low for partition, marks in self._log.watermarks(fresh).items()} if fresh else {}
        return {partition: low[partition] if offset is None else offset for partition, offset in committed.items()}

    def _check(self, committed: dict[Partition, int | None]) -> None:
        known = {partition: offset for partition, offset in committed.items() if offset is not None}
        marks = self._log.watermarks(known) if known else {}
        for partition, offset in known.items():
            low, high = marks[partition]
            if not low <= offset <= high:
                raise StateCorrupt(
                    f"committed offset {offset} of {partition[0]}/{partition[1]} lies outside its log [{low}, {high}]"
                    + (_EXPIRED_WHOLE if offset < low == high else ""),
                    hint="records expired before they were read, or the topic was made anew; to accept the loss, stop "
                    f"every process of the service, then {go_on_at_the_beginning(self._spec.group, partition)}",
                )

    def _check_offsets_kept(self, committed: dict[Partition, int | None], with_state: list[int]) -> None:
        """State and offsets are written together, so state without any offset means that the offsets were lost: to
        begin again would count every record a second time.

        A topic of the input may be new, or its partition have had no record yet: what tells is that the group has no
        offset for any.
        """
        for number in with_state:
            known = committed
            if all(offset is None for (_, partition), offset in known.items() if partition == number):
                numbers = {partition for _, partition in (*committed, *self._log.owned())}
                known = self._log.committed([(topic.name, one) for topic in self._spec.inputs for one in numbers])
            if all(offset is None for offset in known.values()):
                raise StateCorrupt(
                    f"{self._spec.state_topic}/{number} holds state, but group {self._spec.group} has no committed "
                    "offset for any partition of its input",
                    hint="the group was deleted or its offsets expired (offsets.retention.minutes): set its offsets "
                    "with kafka-consumer-groups.sh to go on from there, or delete and recreate the state topic to "
                    "begin anew",
                )

    def _progress(self, started: float) -> Callable[[int, int], None]:
        last = started

        def report(read: int, total: int) -> None:
            nonlocal last
            self._health.beat()
            now = clock.monotonic()
            if now - last >= _PROGRESS_EVERY_S:
                last = now
                self._health.set_ready(False, f"restoring state: {read} of {total} changelog offsets read")
                _log.info("restoring", read=read, total=total, seconds=round(now - started, 1))

        return report


def _commits(partitions: Collection[Partition], notes: Mapping[Partition, Note]) -> dict[int, Commits]:
    by_number: dict[int, Commits] = {}
    for at in partitions:
        by_number.setdefault(at[1], {})[at] = notes[at].commit if at in notes else None
    return by_number
