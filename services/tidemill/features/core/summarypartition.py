"""One partition's summaries: its watermark, its windows, and both as entries of the stage's changelog.

Entries lie beside the window engine's. Their keys end in a chunk number that no ring reaches (it would take 2^36 rows
of one key), so that neither is taken for the other.
"""

from collections.abc import Iterable, Iterator

import orjson

from tidemill.errors import StateCorrupt
from tidemill.features.core.summarydefinition import SummaryDefinition
from tidemill.features.core.summarywindows import Event, Summary, SummaryWindows, Window, WindowName
from tidemill.features.core.watermark import PartitionWatermark, Policy

_MARK = b"\xff\xff\xff\xff"
_WATERMARK = b"\x00watermark" + _MARK
_BORN = 8
_WORD = 8
Entry = tuple[bytes, bytes | None]


def is_summary_entry(key: bytes) -> bool:
    """Whether a changelog entry of a keyed stage belongs to its summaries, and not to its rings."""
    return key.endswith(_MARK)


class PartitionSummaries:
    """Takes the records of one partition in their order, each by one call; the caller writes what comes back."""

    def __init__(self, definitions: tuple[SummaryDefinition, ...], policy: Policy) -> None:
        self._definitions = definitions
        self.watermark = PartitionWatermark(policy)
        self.windows = SummaryWindows(definitions)
        self._removed: list[bytes] = []
        """Entries of summaries that the file does not name any more."""

    def event(self, event: Event) -> list[Summary]:
        """An event: corrections that it makes, then what it closes."""
        before = self.watermark.value
        made = self.windows.add(event, before)
        if not event.late:
            self.watermark.event(event.time)
            made += self.windows.close(self.watermark.value)
        return made

    def heard(self, source: int, watermark: int | None) -> list[Summary]:
        """A watermark record: what it closes."""
        self.watermark.heard(source, watermark)
        return list(self.windows.close(self.watermark.value))

    def pack(self) -> Iterator[Entry]:
        """What changed since the last call; value None deletes."""
        for key in self._removed:
            yield key, None
        self._removed.clear()
        if self.watermark.changed:
            self.watermark.changed = False
            yield _WATERMARK, self.watermark.pack()
        for name in sorted(self.windows.changed):
            window = self.windows.get(name)
            yield self._key(name), None if window is None else self._value(name, window)
        self.windows.changed.clear()

    def restore(self, entries: Iterable[tuple[bytes, bytes]]) -> bool:
        """Fill a new object from committed `pack` entries, in any order. Windows of a summary that is not in the file
        any more are forgotten; returns whether there were some. Raises StateCorrupt where an entry was written by
        another definition."""
        numbers = {definition.name.encode(): number for number, definition in enumerate(self._definitions)}
        for key, value in sorted(entries):
            try:
                if key == _WATERMARK:
                    self.watermark.restore(value)
                    continue
                summary, _, rest = key[: -len(_MARK)].partition(b"\x00")
                number = numbers.get(summary)
                if number is None:
                    self._removed.append(key)
                    continue
                born = int.from_bytes(rest[-_BORN:], "big", signed=True)
                self._put(WindowName(number, rest[:-_BORN], born), value)
            except (ValueError, TypeError) as error:
                raise StateCorrupt(
                    f"changelog entry {key!r} of a summary cannot be continued: {error}",
                    hint="summaries, allowed_lateness or the number of partitions changed: name the pipeline anew, or "
                    "empty its state and offsets",
                ) from error
        return bool(self._removed)

    def _key(self, name: WindowName) -> bytes:
        summary = self._definitions[name.summary].name.encode()
        return b"".join((summary, b"\x00", name.key, name.born.to_bytes(_BORN, "big", signed=True), _MARK))

    def _value(self, name: WindowName, window: Window) -> bytes:
        definition = self._definitions[name.summary]
        states: object = window.states
        if definition.has_squares:  # which outgrow what JSON readers take for an integer
            states = [list(map(str, state)) for state in window.states]
        header = orjson.dumps(
            [definition.fingerprint, window.first, window.last, window.revision, window.opened, states]
        )
        if not window.identities:
            return header
        return header + b"\n" + b"".join(one.to_bytes(_WORD, "big") for one in sorted(window.identities))

    def _put(self, name: WindowName, value: bytes) -> None:
        header, _, identities = value.partition(b"\n")
        fingerprint, first, last, revision, opened, states = orjson.loads(header)
        if fingerprint != self._definitions[name.summary].fingerprint:
            raise ValueError("it was written by another definition of this summary")
        window = Window(first, last, [list(map(int, state)) for state in states])
        window.revision, window.opened = revision, opened
        window.identities = {
            int.from_bytes(identities[at : at + _WORD], "big") for at in range(0, len(identities), _WORD)
        }
        self.windows.put(name, window)
