"""The windows of one partition: events go in, and behind the watermark summaries come out, each once.

For the records of a partition in their order the summaries are the same, however they were batched and wherever the
state was restored. Plain Python: its cost an event is in the service's README.
"""

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from tidemill.features.core import accumulation
from tidemill.features.core.accumulation import Accumulator, Answer
from tidemill.features.core.summarydefinition import SummaryDefinition

_WORD = (1 << 64) - 1
_MIX = 0x9E3779B97F4A7C15


class Summary(NamedTuple):
    """One window of one key as it stands. `opened` is `start` at revision 0: with summary and key it names the window,
    whose start and end a correction may move if it is a session."""

    definition: SummaryDefinition
    key: bytes
    opened: int
    start: int
    end: int
    revision: int
    values: tuple[Answer, ...]


class WindowName(NamedTuple):
    """`born` is the start of a time window, and of a session the time of the event that began it."""

    summary: int
    key: bytes
    born: int


class Window:
    """[first, last] of a session's events, or [start, end) of a time window; `revision` is −1 while it is open."""

    __slots__ = ("first", "identities", "last", "opened", "revision", "states")

    def __init__(self, first: int, last: int, states: list[Accumulator]) -> None:
        self.first = first
        self.last = last
        self.states = states
        self.revision = -1
        self.opened = first
        self.identities: set[int] = set()
        """Of the late events in it: the rings, which know all others again, do not hold them."""


class Event(NamedTuple):
    """`late` if the features refused it for its age; `row` has the columns of `StageSummaries`."""

    key: bytes
    time: int
    identity: int
    late: bool
    row: Sequence[int]


class SummaryWindows:
    """All windows of a partition, open ones and those kept for corrections."""

    def __init__(self, definitions: Sequence[SummaryDefinition]) -> None:
        self._definitions = definitions
        self._windows: dict[tuple[int, bytes], dict[int, Window]] = {}
        self._due: list[tuple[int, bytes, int, int]] = []
        self._count = 0
        self.changed: set[WindowName] = set()
        """Windows that were made, changed or forgotten since the caller last cleared it."""
        self.missed = 0
        """Times that an event found its window closed and was left out; for the caller to reset."""

    def __len__(self) -> int:
        return self._count

    @property
    def next_due(self) -> int | None:
        """The watermark at which a window closes or is forgotten next."""
        while self._due:
            due, key, number, born = self._due[0]
            name = WindowName(number, key, born)
            window = self.get(name)
            if window is not None and self._due_of(name, window) <= due:
                return due
            heappop(self._due)
            if window is not None:
                self._await(name, window)
        return None

    def get(self, name: WindowName) -> Window | None:
        windows = self._windows.get(name[:2])
        return None if windows is None else windows.get(name.born)

    def put(self, name: WindowName, window: Window) -> None:
        """Restore a window as it was."""
        self._windows.setdefault((name.summary, name.key), {})[name.born] = window
        self._count += 1
        self._await(name, window)

    def add(self, event: Event, watermark: int) -> list[Summary]:
        """Put an event into its windows, before it moves the watermark. Returns corrections of closed ones."""
        made: list[Summary] = []
        for number, definition in enumerate(self._definitions):
            if event.late and not definition.corrections_for:
                continue
            if definition.gap:
                name, window = self._session(number, event, watermark)
                self._into(name, window, event, watermark, made)
                continue
            hop, size = definition.hop, definition.size
            newest = event.time // hop * hop
            for start in range(newest - size + hop, newest + 1, hop):
                name = WindowName(number, event.key, start)
                window = self.get(name) or self._create(name, start, start + size, watermark)
                self._into(name, window, event, watermark, made)
        return made

    def close(self, watermark: int) -> Iterator[Summary]:
        """What closes at this watermark, by the time at which it closes, then by key, then as the file has them."""
        while self._due and self._due[0][0] <= watermark:
            due, key, number, born = heappop(self._due)
            name = WindowName(number, key, born)
            window = self.get(name)
            if window is None:
                continue
            if self._due_of(name, window) > due:  # the session has grown since
                self._await(name, window)
            elif window.revision < 0:
                yield self._revised(name, window)
                if self._definitions[number].corrections_for and self._due_of(name, window) > watermark:
                    self._await(name, window)
                else:
                    self._forget(name)
            else:
                self._forget(name)

    def _into(self, name: WindowName, window: Window | None, event: Event, watermark: int, made: list[Summary]) -> None:
        """`window` is None where nothing can be written of it any more."""
        if window is None:
            self.missed += 1
            return
        if event.late:
            identity = (event.identity + event.time * _MIX) & _WORD
            if identity in window.identities:
                return
            window.identities.add(identity)
        definition = self._definitions[name.summary]
        for line, state in zip(definition.lines, window.states, strict=True):
            accumulation.add(line, state, event.time, event.row)
        if definition.gap:
            window.first, window.last = min(window.first, event.time), max(window.last, event.time)
        self.changed.add(name)
        if window.revision >= 0 or self._closing(name, window) <= watermark:
            made.append(self._revised(name, window))

    def _session(self, number: int, event: Event, watermark: int) -> tuple[WindowName, Window | None]:
        """Where the event goes: an open session that it extends, joined with the next if it closes the gap between
        them; else a closed one; else one of its own."""
        definition = self._definitions[number]
        near = sorted(
            (window.revision >= 0, window.first, born)
            for born, window in self._windows.get((number, event.key), {}).items()
            if window.first - definition.gap <= event.time <= window.last + definition.gap
            and max(window.last, event.time) - min(window.first, event.time) <= definition.within
        )
        if not near:
            name = WindowName(number, event.key, event.time)
            return name, self._create(name, event.time, event.time, watermark)
        name = WindowName(number, event.key, near[0][2])
        for closed, _, born in near[1:]:
            if not closed and not near[0][0]:
                self._join(name, WindowName(number, event.key, born))
        return name, self.get(name)

    def _join(self, name: WindowName, other: WindowName) -> None:
        """Take the open window `other` into `name`, unless both together are too long."""
        window, later = self.get(name), self.get(other)
        assert window is not None and later is not None
        definition = self._definitions[name.summary]
        if max(window.last, later.last) - min(window.first, later.first) > definition.within:
            return
        window.states = [
            accumulation.merge(line, one, two)
            for line, one, two in zip(definition.lines, window.states, later.states, strict=True)
        ]
        window.first, window.last = min(window.first, later.first), max(window.last, later.last)
        window.identities |= later.identities
        self._forget(other)

    def _create(self, name: WindowName, first: int, last: int, watermark: int) -> Window | None:
        """A new window, unless the watermark has passed what can still be written of it."""
        window = Window(first, last, [accumulation.empty(line) for line in self._definitions[name.summary].lines])
        if self._closing(name, window) + self._definitions[name.summary].corrections_for <= watermark:
            return None
        self.put(name, window)
        return window

    def _forget(self, name: WindowName) -> None:
        windows = self._windows[name.summary, name.key]
        del windows[name.born]
        if not windows:
            del self._windows[name.summary, name.key]
        self._count -= 1
        self.changed.add(name)

    def _closing(self, name: WindowName, window: Window) -> int:
        """The watermark that closes it. An event at the very end of a session's gap still belongs to it."""
        gap = self._definitions[name.summary].gap
        return window.last + gap + 1 if gap else window.last

    def _due_of(self, name: WindowName, window: Window) -> int:
        """The watermark that closes it, or once it is closed makes it forgotten."""
        closing = self._closing(name, window)
        return closing if window.revision < 0 else closing + self._definitions[name.summary].corrections_for

    def _await(self, name: WindowName, window: Window) -> None:
        heappush(self._due, (self._due_of(name, window), name.key, name.summary, name.born))

    def _revised(self, name: WindowName, window: Window) -> Summary:
        if window.revision < 0:
            window.opened = window.first
        window.revision += 1
        self.changed.add(name)
        definition = self._definitions[name.summary]
        answers = map(accumulation.answer, definition.lines, window.states)
        end = window.last + definition.gap
        return Summary(definition, name.key, window.opened, window.first, end, window.revision, tuple(answers))
