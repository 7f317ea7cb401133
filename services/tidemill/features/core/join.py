"""The join of predictions with the truth, for one partition. Pure; what it returns depends on the log's order alone.

Predictions come delayed by the maturity, so the topic is their buffer and only labels are held. Rules:

- a label counts if it was known within the maturity of its event; a later one is `late`, whenever it arrives;
- the same label again is a `duplicate`; another value for the same event is kept or not as the pipeline says;
- no label: `censored` where the decision kept the truth from showing, else as the pipeline says;
- labels and shadow scores whose prediction is GRACE_MS overdue are given up. Only predictions move that horizon, in
  steps of GRID_MS, so it falls at the same record in every run.

Changelog: the labels of one transaction make one record, deleted when all of them are past the horizon. Nothing is
written when a label is used.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import OutcomesSpec
from tidemill.errors import StateCorrupt

GRACE_MS = DAY_MS
GRID_MS = 3_600_000
_UNSEEN = -(1 << 60)

LabelResult = Literal["kept", "replaced", "first_kept", "duplicate", "late"]
Status = Literal["labelled", "negative", "censored"]


class Label(NamedTuple):
    id: str
    event_time: int
    known_at: int
    value: int


class Shadow(NamedTuple):
    """The challenger's score of an event."""

    id: str
    event_time: int
    model_version: int
    score: float


class Verdict(NamedTuple):
    """What a matured prediction gets."""

    label: int | None
    status: Status
    known_at: int | None
    shadow: Shadow | None


class _Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A changelog record of labels, by column."""

    version: int
    ids: list[str]
    event_times: list[int]
    known_at: list[int]
    values: list[int]


_LABELS, _SHADOWS, _NEWEST = b"l", b"s", b"w"
_batches = msgspec.msgpack.Decoder(_Batch)
_scores = msgspec.msgpack.Decoder(list[Shadow])
_times = msgspec.msgpack.Decoder(int)


class OutcomeJoin:
    """Labels and shadow scores of one partition that wait for their predictions."""

    def __init__(self, rules: OutcomesSpec) -> None:
        self._maturity = rules.maturity
        self._missing: Verdict = Verdict(0, "negative", None, None)
        if rules.missing_label == "censored":
            self._missing = Verdict(None, "censored", None, None)
        self._keep_first = rules.conflicting_label == "first"
        self._blocking = frozenset(rules.blocking_decisions)
        self._labels: dict[str, Label] = {}
        self._unused: set[str] = set()
        self._shadows: dict[str, Shadow] = {}
        self._batches: list[tuple[int, int, list[str]]] = []
        self._next_batch = 0
        self._newest = self._saved_newest = _UNSEEN
        self._fresh: list[Label] = []
        self._gone: list[bytes] = []
        self._shadows_saved = self._shadows_changed = False
        self.expired_labels = 0
        self.expired_shadows = 0

    @property
    def held(self) -> int:
        """Labels in memory."""
        return len(self._labels)

    def holdings(self) -> tuple[list[Label], list[Shadow]]:
        """The labels and scores that wait for a prediction, by event time then id; those already past are left out."""
        horizon = self._horizon
        labels = [label for label in self._labels.values() if label.event_time > horizon]
        return sorted(labels, key=_by_time), sorted(self._shadows.values(), key=_by_time)

    @property
    def _horizon(self) -> int:
        return self._newest // GRID_MS * GRID_MS - GRACE_MS

    def label(self, label: Label) -> LabelResult:
        """Take a label that became known."""
        horizon = self._horizon
        if label.event_time <= horizon:
            return "late"
        held = self._labels.get(label.id)
        if held is not None and held.event_time <= horizon:
            held = None  # Still in memory only because others of its batch live.
        if held is not None and held.event_time == label.event_time and held.value == label.value:
            return "duplicate"
        if label.known_at > label.event_time + self._maturity:
            return "late"
        if held is not None and self._keep_first:
            return "first_kept"
        self._labels[label.id] = label
        self._unused.add(label.id)
        self._fresh.append(label)
        return "kept" if held is None else "replaced"

    def shadow(self, shadow: Shadow) -> None:
        """Take a challenger's score; its prediction follows, usually at once."""
        if shadow.event_time > self._horizon:
            self._shadows[shadow.id] = shadow
            self._shadows_changed = True
        else:
            self.expired_shadows += 1

    def prediction(self, id_: str, event_time: int, decision: str) -> Verdict:
        """Decide a prediction that has matured."""
        if event_time > self._newest:
            before, self._newest = self._horizon, event_time
            if self._horizon > before:
                self._expire()
        shadow = self._shadows.pop(id_, None)
        if shadow is not None:
            self._shadows_changed = True
        label = self._labels.get(id_)
        if label is not None and label.event_time == event_time and event_time > self._horizon:
            self._unused.discard(id_)
            return Verdict(label.value, "labelled", label.known_at, shadow)
        if decision in self._blocking:
            return Verdict(None, "censored", None, shadow)
        return self._missing if shadow is None else self._missing._replace(shadow=shadow)

    def _expire(self) -> None:
        horizon = self._horizon
        while self._batches and self._batches[0][0] <= horizon:
            _, number, ids = heapq.heappop(self._batches)
            self._gone.append(_batch_key(number))
            self._forget(ids)
        if self._fresh and max(label.event_time for label in self._fresh) <= horizon:
            self._forget([label.id for label in self._fresh])
            self._fresh = []
        overdue = [shadow.id for shadow in self._shadows.values() if shadow.event_time <= horizon]
        for id_ in overdue:
            del self._shadows[id_]
            self._shadows_changed = True
        self.expired_shadows += len(overdue)

    def _forget(self, ids: Iterable[str]) -> None:
        horizon = self._horizon
        for id_ in ids:
            label = self._labels.get(id_)
            if label is not None and label.event_time <= horizon:
                del self._labels[id_]
                if id_ in self._unused:
                    self._unused.remove(id_)
                    self.expired_labels += 1

    def pack(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog entries since the last call; None deletes. Counts as saved from here on."""
        entries: list[tuple[bytes, bytes | None]] = [(key, None) for key in self._gone]
        self._gone = []
        if self._fresh:
            ids, event_times, known_at, values = (list(column) for column in zip(*self._fresh, strict=True))
            number, self._next_batch = self._next_batch, self._next_batch + 1
            batch = _Batch(1, ids, event_times, known_at, values)
            entries.append((_batch_key(number), msgspec.msgpack.encode(batch)))
            heapq.heappush(self._batches, (max(event_times), number, ids))
            self._fresh = []
        if self._shadows_changed and (self._shadows or self._shadows_saved):
            value = msgspec.msgpack.encode(list(self._shadows.values())) if self._shadows else None
            entries.append((_SHADOWS, value))
            self._shadows_saved = value is not None
        self._shadows_changed = False
        if self._newest != self._saved_newest:
            entries.append((_NEWEST, msgspec.msgpack.encode(self._newest)))
            self._saved_newest = self._newest
        return entries

    def restore(self, entries: Mapping[bytes, bytes]) -> None:
        """Continue from committed entries. The join is new. Raises StateCorrupt on anything `pack` did not write."""
        try:
            if _NEWEST in entries:
                self._newest = self._saved_newest = _times.decode(entries[_NEWEST])
            for shadow in _scores.decode(entries.get(_SHADOWS, b"\x90")):
                self._shadows[shadow.id] = shadow
            for key in sorted(key for key in entries if key[:1] == _LABELS):
                batch = _batches.decode(entries[key])
                self._next_batch = int.from_bytes(key[1:], "big") + 1
                for label in map(Label, batch.ids, batch.event_times, batch.known_at, batch.values):
                    self._labels[label.id] = label
                heapq.heappush(self._batches, (max(batch.event_times), self._next_batch - 1, batch.ids))
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateCorrupt(
                f"the changelog of the outcomes cannot be read: {error}",
                hint="it was written by another version: give the pipeline a new name or an empty state topic",
            ) from None
        self._shadows_saved = bool(self._shadows)
        # What was used is not in the log; in order, it is whatever the predictions have passed.
        self._unused = {label.id for label in self._labels.values() if label.event_time > self._newest}


def _by_time(held: Label | Shadow) -> tuple[int, str]:
    return held.event_time, held.id


def _batch_key(number: int) -> bytes:
    return _LABELS + number.to_bytes(8, "big")
