"""What the auditor has read of every topic, compactly, and what shows at once. Pure: it is fed by any client."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson

from tidemill.domain.pipeline import Pipeline

_CONNECT = "__connect.errors."
Headers = Sequence[tuple[str, bytes]]


class Identified(msgspec.Struct):
    """What events, labels, vectors, predictions and outcomes have in common."""

    id: str
    event_time: int


class Vector(Identified):
    features: list[float | None]


class Scored(Identified):
    model_version: int | None
    outputs: dict[str, float]


class Event(Identified):
    customer: str
    terminal: str
    amount: float


class Label(Identified):
    terminal: str
    fraud: int


class Line(NamedTuple):
    """One record of a stream: where it stands, what it is called, and its key."""

    offset: int
    id: str
    key: bytes


class Letter(NamedTuple):
    """One dead letter: its code, the stage that refused the record, where that record stood, and its bytes' hash."""

    code: str
    stage: str
    topic: str
    partition: int
    offset: int
    value: int


class Switch(NamedTuple):
    """One recorded change of the model that scores a partition."""

    epoch: int
    champion: int | None
    from_offset: int


class Books:
    """Fed with committed records of each partition in offset order. About 1 kB an event over all topics.

    `repeats` and `backwards` are seen at once; everything else is what `checks` compares when the stream has ended.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        sources = {source.kind: source for source in pipeline.ingest.sources if source.topic}
        self.raw_topic, self.raw_label_topic = sources["event"].topic or "", sources["label"].topic or ""
        self._id_field = {self.raw_topic: "payment_id", self.raw_label_topic: "payment_id"}
        by_entity = pipeline.features.stages[1].entity
        self.names = {
            "events": pipeline.topic("events"),
            "labels": pipeline.topic("labels"),
            "rekeyed": pipeline.topic(f"by-{by_entity}"),
            "features": pipeline.topic("features"),
            "predictions": pipeline.topic("predictions"),
            "outcomes": pipeline.topic("outcomes"),
        }
        self.raw: dict[str, dict[tuple[int, int], tuple[str | None, bytes, int]]] = {
            self.raw_topic: {},
            self.raw_label_topic: {},
        }
        self.streams: dict[str, dict[int, list[Line]]] = {name: {} for name in self.names}
        self.values: dict[tuple[int, int], int] = {}
        """Hash of each record of `events`, for the dead letters of later stages."""
        self.events: dict[str, Event] = {}
        self.vectors: dict[str, list[float | None]] = {}
        self.scores: dict[str, tuple[int | None, float]] = {}
        self.passed_labels: dict[tuple[str, int], Label] = {}
        """Labels that the first stage handed on to the second, by id and offset: they stand among its events."""
        self.label_time: dict[int, int] = {}
        """Newest Kafka timestamp of each partition of the labels."""
        self.letters: list[Letter] = []
        self.switches: dict[int, list[Switch]] = {}
        self.repeats: dict[str, int] = dict.fromkeys(("rekeyed", "features", "predictions", "outcomes"), 0)
        self.backwards = 0
        self.records = 0
        self._seen: dict[str, set[str]] = {name: set() for name in self.repeats}
        self._last: dict[tuple[str, int], int] = {}
        self._output = pipeline.model.output
        self._sinks = {
            self.raw_topic: self._raw,
            self.raw_label_topic: self._raw,
            pipeline.topic("dlq"): self._letter,
            pipeline.topic("inference-state"): self._switch,
        }
        self._stream_of = {topic: name for name, topic in self.names.items()}

    @property
    def topics(self) -> list[str]:
        """What to read, from the beginning, committed records only."""
        return [*self._sinks, *self._stream_of]

    def enter(
        self, topic: str, partition: int, offset: int, timestamp: int, key: bytes, value: bytes, headers: Headers
    ) -> None:
        """Book one record."""
        self.records += 1
        if offset <= self._last.get((topic, partition), -1):
            self.backwards += 1
        self._last[topic, partition] = offset
        if (name := self._stream_of.get(topic)) is not None:
            self._stream(name, partition, offset, timestamp, key, value)
        else:
            self._sinks[topic](topic, partition, offset, key, value, headers)

    def _raw(self, topic: str, partition: int, offset: int, key: bytes, value: bytes, headers: Headers) -> None:
        try:
            name = orjson.loads(value)[self._id_field[topic]]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            name = None
        self.raw[topic][partition, offset] = (name if isinstance(name, str) else None, key, hash(value))

    def _stream(self, name: str, partition: int, offset: int, timestamp: int, key: bytes, value: bytes) -> None:
        record: Identified
        labels = False
        if name == "rekeyed" and b'"features":' not in value:
            record = label = _LABEL.decode(value)
            self.passed_labels[label.id, offset] = label
            labels = True
        elif name == "features":
            record = vector = _VECTOR.decode(value)
            self.vectors[vector.id] = vector.features
        elif name == "predictions":
            record = scored = _SCORED.decode(value)
            self.scores[scored.id] = (scored.model_version, scored.outputs[self._output])
        elif name == "events":
            record = event = _EVENT.decode(value)
            self.events.setdefault(event.id, event)
            self.values[partition, offset] = hash(value)
        else:
            record = _IDENTIFIED.decode(value)
        if name == "labels":
            self.label_time[partition] = max(timestamp, self.label_time.get(partition, 0))
        self.streams[name].setdefault(partition, []).append(Line(offset, record.id, key))
        if (seen := self._seen.get(name)) is not None and not labels:
            self.repeats[name] += record.id in seen
            seen.add(record.id)

    def _letter(self, topic: str, partition: int, offset: int, key: bytes, value: bytes, headers: Headers) -> None:
        story = {name: text.decode() for name, text in headers if text is not None}
        origin = (story[f"{_CONNECT}{part}"] for part in ("topic", "partition", "offset"))
        source, number, at = next(origin), int(next(origin)), int(next(origin))
        stage = story[f"{_CONNECT}stage"]
        self.letters.append(Letter(story["tidemill.code"], stage, source, number, at, hash(value)))

    def _switch(self, topic: str, partition: int, offset: int, key: bytes, value: bytes, headers: Headers) -> None:
        active: Mapping[str, Any] = orjson.loads(value)
        switch = Switch(active["epoch"], active["champion"], active["from_offset"])
        self.switches.setdefault(partition, []).append(switch)

    def progress(self) -> dict[str, Any]:
        """Counts so far, cheap to make."""
        return {
            "records": self.records,
            "raw": len(self.raw[self.raw_topic]),
            "predictions": len(self.scores),
            "dead_letters": len(self.letters),
            "repeated": sum(self.repeats.values()),
            "backwards": self.backwards,
        }


_IDENTIFIED = msgspec.json.Decoder(Identified)
_VECTOR = msgspec.json.Decoder(Vector)
_SCORED = msgspec.json.Decoder(Scored)
_LABEL = msgspec.json.Decoder(Label)
_EVENT = msgspec.json.Decoder(Event)
