"""What the auditor has read of every topic, compactly, and what shows at once. Pure: it is fed by any client."""

from array import array
from sys import intern
from typing import Any, NamedTuple

import numpy as np
import orjson

from chaosharness import records
from chaosharness.fingerprints import Fingerprints, Headers, fingerprint
from chaosharness.records import Event, Identified, Label
from tidemill.domain.pipeline import Pipeline

_CONNECT = "__connect.errors."
INGEST, OUTCOMES, INFERENCE = "ingest", "features-outcomes", "inference"


class Line(NamedTuple):
    """One record of a stream: where it stands, what it is called, its key, the hash of what it carries on of the record
    that it was made from, and the hash of what the next stage must carry on of it."""

    offset: int
    id: str
    key: bytes
    carried: int
    body: int


class Known(NamedTuple):
    """One label: where it stands, what it says, and how far its partition's time had come with it."""

    partition: int
    event_time: int
    known_at: int
    fraud: int
    reached: int


class Truth(NamedTuple):
    """What an outcome says beyond its prediction."""

    label: int | None
    status: str
    known_at: int | None
    shadow: bool


class Letter(NamedTuple):
    """One dead letter: its code, the stage that refused the record, where that stood, and what it was like."""

    code: str
    stage: str
    topic: str
    partition: int
    offset: int
    print: int


class Switch(NamedTuple):
    """One recorded change of the model that scores a partition."""

    epoch: int
    champion: int | None
    from_offset: int


class Entry(NamedTuple):
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Books:
    """Fed with committed records of each partition in offset order. About 1.5 kB a payment over all topics.

    `repeats`, `backwards` and `flaws` are seen at once; everything else is what the questions compare when the stream
    has ended.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        sources = {source.kind: source for source in pipeline.ingest.sources if source.topic}
        self.raw_topic, self.raw_label_topic = sources["event"].topic or "", sources["label"].topic or ""
        self._id_field = {self.raw_topic: "payment_id", self.raw_label_topic: "payment_id"}
        self.entities = [stage.entity for stage in pipeline.features.stages]
        self.stages = [f"features-{entity}" for entity in self.entities]
        self.names = {
            "events": pipeline.topic("events"),
            "labels": pipeline.topic("labels"),
            "rekeyed": pipeline.topic(f"by-{self.entities[1]}"),
            "features": pipeline.topic("features"),
            "predictions": pipeline.topic("predictions"),
            "outcomes": pipeline.topic("outcomes"),
        }
        self.raw: dict[str, dict[tuple[int, int], tuple[str | None, bytes]]] = {
            self.raw_topic: {},
            self.raw_label_topic: {},
        }
        self.streams: dict[str, dict[int, list[Line]]] = {name: {} for name in self.names}
        self.prints = Fingerprints()
        self.events: dict[str, Event] = {}
        self.vectors: dict[str, bytes] = {}
        """Each served vector as `packed` makes it."""
        self.scores: dict[str, tuple[int | None, float]] = {}
        self.truths: dict[str, Truth] = {}
        self.labels: dict[str, Known] = {}
        self.passed_labels: dict[tuple[str, int], Label] = {}
        """Labels that the first stage handed on to the second, by id and offset: they stand among its events."""
        self.label_time: dict[int, int] = {}
        """Newest Kafka timestamp of each partition of the labels."""
        self.letters: list[Letter] = []
        self.switches: dict[int, list[Switch]] = {}
        self.activations: dict[int, int | None] = {}
        """The version that each published epoch makes the champion."""
        self.repeats: dict[str, int] = dict.fromkeys(("rekeyed", "features", "predictions", "outcomes"), 0)
        self.backwards = 0
        self.flaws: dict[str, list[str]] = {}
        """Ids of the records whose key, time or decision does not follow from what they hold, by what is wrong."""
        self.records = 0
        self._seen: dict[str, set[str]] = {name: set() for name in self.repeats}
        self._last: dict[tuple[str, int], int] = {}
        self._output = pipeline.model.output
        decision = pipeline.decision
        self._threshold = float(np.float32(decision.threshold))
        self._decisions = (decision.negative, decision.positive)
        self._sinks = {
            self.raw_topic: self._raw,
            self.raw_label_topic: self._raw,
            pipeline.topic("dlq"): self._letter,
            pipeline.topic("inference-state"): self._switch,
            pipeline.topic("models"): self._model,
        }
        self._stream_of = {topic: name for name, topic in self.names.items()}

    @property
    def topics(self) -> list[str]:
        """What to read, from the beginning, committed records only."""
        return [*self._sinks, *self._stream_of]

    def enter(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
    ) -> None:
        """Book one record."""
        self.records += 1
        if offset <= self._last.get((topic, partition), -1):
            self.backwards += 1
        self._last[topic, partition] = offset
        if (name := self._stream_of.get(topic)) is not None:
            self.prints.enter(topic, partition, offset, fingerprint(key, value, timestamp, headers))
            self._stream(name, partition, offset, timestamp, key or b"", value or b"")
        else:
            self._sinks[topic](Entry(topic, partition, offset, timestamp, key, value, headers))

    def dead(self, stage: str, topic: str) -> set[tuple[int, int]]:
        """Where the records of a topic stand that this stage refused: what another one refused is no excuse for it."""
        return {
            (letter.partition, letter.offset)
            for letter in self.letters
            if letter.stage == stage and letter.topic == topic
        }

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

    def _raw(self, one: Entry) -> None:
        found = fingerprint(one.key, one.value, one.timestamp, one.headers)
        self.prints.enter(one.topic, one.partition, one.offset, found)
        try:
            name = orjson.loads(one.value or b"")[self._id_field[one.topic]]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            name = None
        line = (intern(name) if isinstance(name, str) else None, one.key or b"")
        self.raw[one.topic][one.partition, one.offset] = line

    def _stream(self, name: str, partition: int, offset: int, timestamp: int, key: bytes, value: bytes) -> None:
        record: Identified
        due, entity = None, 0
        carried = body = 0
        labels = name == "labels" or (name == "rekeyed" and b'"features":' not in value)
        if labels:
            record = label = records.LABEL.decode(value)
            due, carried, body = label.known_at, hash(value), hash(value)
            if name == "labels":
                self._label(partition, timestamp, label)
            else:
                self.passed_labels[intern(label.id), offset] = label
        elif name == "events":
            record = event = records.EVENT.decode(value)
            event.customer, event.terminal, event.id = intern(event.customer), intern(event.terminal), intern(event.id)
            self.events.setdefault(event.id, event)
            body = records.without_brace(value)
        elif name == "rekeyed":
            record = records.IDENTIFIED.decode(value)
            carried = records.before(value, records.BEFORE_FEATURES)
        elif name == "features":
            record = vector = records.VECTOR.decode(value)
            self.vectors[intern(vector.id)] = packed(vector.features)
            carried, body = records.before(value, records.BEFORE_FEATURES), records.without_brace(value)
        elif name == "predictions":
            record = scored = records.SCORED.decode(value)
            score = scored.outputs[self._output]
            self.scores[intern(scored.id)] = (scored.model_version, score)
            if scored.decision != self._decisions[score >= self._threshold]:
                self._flaw("predictions: another decision than the score's", scored.id)
            carried, body = records.before(value, records.BEFORE_SCORE), records.without_brace(value)
        else:
            record = judged = records.JUDGED.decode(value)
            self.truths[intern(judged.id)] = Truth(
                judged.label, intern(judged.label_status), judged.known_at, judged.shadow is not None
            )
            due = judged.event_time + self.pipeline.outcomes.maturity
            carried = records.before(value, records.BEFORE_TRUTH)
        if name == "rekeyed":
            entity = 1
        if timestamp != (record.event_time if due is None else due):
            self._flaw(f"{name}: another timestamp than the time that they are of", record.id)
        if key.decode(errors="replace") != getattr(record, self.entities[entity]):
            self._flaw(f"{name}: another key than the {self.entities[entity]}", record.id)
        line = Line(offset, intern(record.id), key, carried, body)
        self.streams[name].setdefault(partition, []).append(line)
        if (seen := self._seen.get(name)) is not None and not labels:
            self.repeats[name] += record.id in seen
            seen.add(line.id)

    def _label(self, partition: int, timestamp: int, label: Label) -> None:
        reached = self.label_time[partition] = max(timestamp, self.label_time.get(partition, 0))
        known = Known(partition, label.event_time, label.known_at, label.fraud, reached)
        self.labels.setdefault(intern(label.id), known)

    def _flaw(self, what: str, name: str) -> None:
        self.flaws.setdefault(what, []).append(name)

    def _letter(self, one: Entry) -> None:
        """A record that was dead before brings its earlier story along as headers of its own: the last story counts."""
        last = {name: at for at, (name, _) in enumerate(one.headers)}
        story = {
            name: one.headers[at][1].decode() for name, at in last.items() if name.startswith((_CONNECT, "tidemill."))
        }
        original = one.headers[: last[f"{_CONNECT}topic"]]
        self.letters.append(
            Letter(
                story["tidemill.code"],
                story[f"{_CONNECT}stage"],
                story[f"{_CONNECT}topic"],
                int(story[f"{_CONNECT}partition"]),
                int(story[f"{_CONNECT}offset"]),
                fingerprint(one.key, one.value, one.timestamp, original),
            )
        )

    def _switch(self, one: Entry) -> None:
        active = orjson.loads(one.value or b"{}")
        switch = Switch(active["epoch"], active["champion"], active["from_offset"])
        self.switches.setdefault(one.partition, []).append(switch)

    def _model(self, one: Entry) -> None:
        record = orjson.loads(one.value or b"{}")
        if record.get("kind") == "activation":
            self.activations[record["epoch"]] = record["champion"]


def packed(features: list[float | None]) -> bytes:
    """A vector's bits; NaN, which JSON does not have, stands for null."""
    return array("d", (np.nan if value is None else value for value in features)).tobytes()


def unpacked(vectors: list[bytes]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[n, features]; the vectors are equally long."""
    return np.frombuffer(b"".join(vectors)).reshape(len(vectors), -1)
