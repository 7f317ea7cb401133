"""What the drift service keeps in its changelog, and the codec of it.

`generation` on each partition: the number of the generation and the offsets at which it starts on that partition.
`snapshot` and `emitted` on partition 0 only: the state at that start, and what has been written since.
`key/<key>` on the key's partition, with a warm-up only: the event time of the key's first record.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

from tidemill.drift.core.monitor import Snapshot
from tidemill.drift.core.records import Version
from tidemill.errors import StateCorrupt
from tidemill.runtime.service import StateEntry

GENERATION = b"generation"
SNAPSHOT = b"snapshot"
EMITTED = b"emitted"
KEY_PREFIX = b"key/"
HOME = 0
"""The partition that keeps what belongs to no single one."""

_Kept = TypeVar("_Kept", bound=msgspec.Struct | int)
_HINT = "delete the records of the drift state topic: drift then begins anew from its committed offsets"


class Start(msgspec.Struct, frozen=True):
    """Where generation `generation` starts on one partition: topic → offset of its first record."""

    generation: int
    offsets: dict[str, int]
    v: Literal[1] = 1


class Beginning(msgspec.Struct, frozen=True):
    """A generation's start, and the version that each partition of the predictions had named by then."""

    snapshot: Snapshot
    versions: dict[int, Version]
    v: Literal[1] = 1


class Emitted(msgspec.Struct, frozen=True):
    """What is on the drift topic already: alarms of this generation by id, and the newest of the others."""

    generation: int = -1
    statistics_upto: int = -1
    alarms: tuple[str, ...] = ()
    v: Literal[1] = 1


class Changelog:
    """The committed state, partition by partition, as restored and as added to by each commit since."""

    def __init__(self) -> None:
        self._values: dict[int, dict[bytes, bytes]] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """Those restored and not forgotten."""
        return frozenset(self._values)

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        self._values[partition] = dict(entries)

    def forget(self, partition: int) -> None:
        self._values.pop(partition, None)

    def commit(self, entries: Iterable[StateEntry]) -> None:
        for partition, key, value in entries:
            if value is not None and partition in self._values:
                self._values[partition][key] = value

    def beginning(self) -> Beginning:
        """The generation that goes on; the empty one of a stream that was never read."""
        value = self._values.get(HOME, {}).get(SNAPSHOT)
        return Beginning(Snapshot(), {}) if value is None else _decode(value, Beginning)

    def emitted(self) -> Emitted:
        value = self._values.get(HOME, {}).get(EMITTED)
        return Emitted() if value is None else _decode(value, Emitted)

    def starts(self, generation: int) -> dict[tuple[str, int], int]:
        """(topic, partition) → the offset at which `generation` starts. Raises StateCorrupt if one tells of another."""
        offsets: dict[tuple[str, int], int] = {}
        for partition, values in self._values.items():
            if GENERATION not in values:
                continue
            start = _decode(values[GENERATION], Start)
            if start.generation != generation:
                raise StateCorrupt(
                    f"the drift state is in generation {generation} but partition {partition} says {start.generation}",
                    hint=_HINT,
                )
            offsets.update({(topic, partition): offset for topic, offset in start.offsets.items()})
        return offsets

    def keys(self) -> Iterator[tuple[bytes, int]]:
        """Each key with the event time of its first record. Raises StateCorrupt where that is none."""
        for values in self._values.values():
            for key, value in values.items():
                if key.startswith(KEY_PREFIX):
                    yield key[len(KEY_PREFIX) :], _decode(value, int)


def entry(partition: int, key: bytes, value: msgspec.Struct) -> StateEntry:
    """A changelog record of one of the structs above."""
    return StateEntry(partition, key, msgspec.json.encode(value))


def key_entry(partition: int, key: bytes, first_ms: int) -> StateEntry:
    return StateEntry(partition, KEY_PREFIX + key, str(first_ms).encode())


def _decode(value: bytes, kind: type[_Kept]) -> _Kept:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StateCorrupt(f"a drift state record is not a {kind.__name__}: {error}", hint=_HINT) from error
