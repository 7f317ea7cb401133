"""A reader of its own for the committed topics: audits a running pipeline and reports what it saw.

`python -m tidemill.local.audit --bootstrap-servers … --pipeline fraud` reads from the start of every topic, with
`read_committed`, and answers commands on stdin, one a line, each with one JSON line on stdout: `progress` (cheap
counts), `report` (the books closed as they stand), `reset` and `window` (latencies are those of the events sent between
the two). End of input ends it.
"""

import argparse
import select
import sys
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import orjson

from tidemill import clock
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.local.ledger import Ledger, Prediction, percentiles
from tidemill.local.scorecard import Scorecard
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

TIMED_RECORDS = 5_000
OTHER_RECORDS = 500
"""Few at a time: booking them delays the clock of the next prediction."""
PATIENT = {"fetch.min.bytes": "1000000", "fetch.wait.max.ms": "500"}
"""For all but the predictions, whose arrival is timed: a fetch for every few records would load the broker that is
being measured."""
LATENCY_SAMPLE = 16
"""One event in so many (by a hash of its id) has its latency measured, to keep the audit of a fast stream light."""


class Audit:
    """Everything the audit has seen. `now_ms` arguments are wall-clock milliseconds, for latency only."""

    def __init__(self, pipeline: Pipeline, latency_sample: int = LATENCY_SAMPLE) -> None:
        self._latency_sample = latency_sample
        events = next(source for source in pipeline.ingest.sources if source.kind == "event" and source.topic)
        self._raw_topic = events.topic or ""
        self._events_topic = pipeline.topic("events")
        self._predictions_topic, self._drift_topic = pipeline.topic("predictions"), pipeline.topic("drift")
        self._label_topics = {source.topic for source in pipeline.ingest.sources if source.kind == "label"}
        id_field = events.fields["id"].source or "id"
        self.ledger = Ledger(id_field, len(pipeline.feature_names), feature_set_hash(pipeline))
        self.scorecard = Scorecard(pipeline.model.output)
        self._sent: dict[str, float] = {}
        self._arrived: dict[str, float] = {}
        self._timed_from, self._timed_until = 0.0, float("inf")
        self._latencies: list[float] = []
        self._sink = {
            self._raw_topic: self._raw,
            pipeline.topic("dlq"): self._dead_letter,
            self._predictions_topic: self._prediction,
            pipeline.topic("outcomes"): self._outcome,
            self._drift_topic: self._drift,
            pipeline.topic("decisions"): self._decision,
            pipeline.topic("models"): self._model,
        }
        self.alarms: list[dict[str, Any]] = []
        self.decisions: dict[str, dict[str, Any]] = {}
        self.manifests: dict[int, dict[str, Any]] = {}
        self.first_used: dict[int, dict[str, float]] = {}
        self._first_wall = self._last_wall = 0.0

    @property
    def timed_topics(self) -> tuple[str, ...]:
        """Read as promptly as Kafka hands them out: what times are taken of."""
        return (self._predictions_topic, self._drift_topic)

    @property
    def other_topics(self) -> tuple[str, ...]:
        """Read in large pieces."""
        labels = sorted(topic for topic in self._label_topics if topic)
        return (*(topic for topic in self._sink if topic not in self.timed_topics), *labels)

    def read(self, records: Sequence[Record], now_ms: float) -> None:
        """Book `records`, in the order read."""
        for record in records:
            sink = self._sink.get(record.topic)
            if sink is not None:
                sink(record, now_ms)
            else:
                self.ledger.labels += 1

    def _raw(self, record: Record, now_ms: float) -> None:
        name = self.ledger.raw(record.partition, record.offset, record.value)
        if name is not None and self._sampled(name):
            sent = next((value for header, value in record.headers if header == "sent-ms"), None)
            if sent is not None:
                self._sent.setdefault(name, float(sent))
                self._time(name)

    def _prediction(self, record: Record, now_ms: float) -> None:
        prediction: Prediction = self.ledger.prediction(record.value or b"")
        if self._sampled(prediction.id):
            self._arrived.setdefault(prediction.id, now_ms)
            self._time(prediction.id)
        self._first_wall = self._first_wall or now_ms
        self._last_wall = now_ms
        version = prediction.model_version
        if version is not None and version not in self.first_used:
            self.first_used[version] = {"event_time": prediction.event_time, "wall_ms": now_ms}

    def _sampled(self, name: str) -> bool:
        return crc32(name.encode()) % self._latency_sample == 0

    def _time(self, name: str) -> None:
        """Book the latency of `name` once both its event and its prediction have been read, in whatever order."""
        if name in self._sent and name in self._arrived:
            sent, arrived = self._sent.pop(name), self._arrived.pop(name)
            if self._timed_from <= sent < self._timed_until:
                self._latencies.append(arrived - sent)

    def _outcome(self, record: Record, now_ms: float) -> None:
        self.scorecard.add(record.value or b"", record.key)

    def _dead_letter(self, record: Record, now_ms: float) -> None:
        headers = dict(record.headers)
        code = headers["tidemill.code"].decode()
        position = None
        source = headers["__connect.errors.topic"].decode()
        if source == self._raw_topic:
            position = (int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"]))
        self.ledger.dead_letter(code, position, record.value, event=source == self._events_topic)

    def _drift(self, record: Record, now_ms: float) -> None:
        entry = orjson.loads(record.value or b"{}")
        if entry.get("kind") == "alarm" and all(alarm["id"] != entry["id"] for alarm in self.alarms):
            self.alarms.append({**entry, "seen_wall_ms": now_ms})

    def _decision(self, record: Record, now_ms: float) -> None:
        entry = orjson.loads(record.value or b"{}")
        self.decisions.setdefault(entry["id"], {**entry, "seen_wall_ms": now_ms})

    def _model(self, record: Record, now_ms: float) -> None:
        entry = orjson.loads(record.value or b"{}")
        if entry.get("kind") == "manifest":
            self.manifests[entry["version"]] = entry

    def reset(self, now_ms: float) -> dict[str, Any]:
        """Time only what is meant to be sent from now on: a warm-up is over."""
        self._timed_from, self._timed_until = now_ms, float("inf")
        self._latencies.clear()
        return self.progress()

    def close_window(self, now_ms: float) -> dict[str, Any]:
        """Time only what was meant to be sent before now; its predictions are still timed when they come."""
        self._timed_until = now_ms
        return self.progress()

    def progress(self) -> dict[str, Any]:
        return {
            "raw": self.ledger.raw_records,
            "predictions": self.ledger.predictions,
            "outcomes": self.scorecard.outcomes,
            "alarms": len(self.alarms),
            "decisions": len(self.decisions),
            "models": sorted(self.first_used),
        }

    def latency(self) -> dict[str, Any]:
        """Milliseconds from the moment an event was meant to be sent until its prediction was read. `unanswered` ones
        have none yet: with many of them, the percentiles say too little."""
        p50, p99 = percentiles(self._latencies, (0.5, 0.99))
        unanswered = sum(self._timed_from <= sent < self._timed_until for sent in self._sent.values())
        return {
            "p50": _rounded(p50), "p99": _rounded(p99), "samples": len(self._latencies), "unanswered": unanswered
        }  # fmt: skip

    def report(self) -> dict[str, Any]:
        """The audit's part of the demo's summary."""
        promotions = [entry for entry in self.decisions.values() if entry["kind"] == "promoted"]
        promoted = {entry["model_version"]: entry for entry in promotions}
        used_from = {each: int(used["event_time"]) for each, used in self.first_used.items() if each in promoted}
        seconds = (self._last_wall - self._first_wall) / 1000
        return {
            **self.ledger.balance(),
            "labels": self.ledger.labels,
            "outcomes": self.scorecard.outcomes,
            "models": [self._model_line(version, promoted.get(version)) for version in sorted(self.manifests)],
            "alarms": self.alarms,
            "decisions": sorted(self.decisions.values(), key=lambda entry: (entry["at"], entry["seen_wall_ms"])),
            "quality": self.scorecard.report(used_from),
            "latency_ms": self.latency(),
            "events_per_second": _rounded(self.ledger.predictions / seconds) if seconds > 0 else None,
            "promotion_seconds": self._promotion_seconds(promoted),
        }

    def _model_line(self, version: int, promotion: dict[str, Any] | None) -> dict[str, Any]:
        manifest = self.manifests[version]
        training = manifest["training"]
        used = self.first_used.get(version)
        return {
            "version": version,
            "sha256": manifest["sha256"],
            "trained_from": training["from"],
            "trained_to": training["to"],
            "rows": training["rows"],
            "positives": training["positives"],
            "reason": training["policy"],
            "gates": manifest["gates"],
            "promoted_at": None if promotion is None else promotion["at"],
            "scoring_from": None if used is None else int(used["event_time"]),
        }

    def _promotion_seconds(self, promoted: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
        """For each promotion that an alarm asked for: wall seconds from the alarm's record to the first score."""
        seen = {alarm["id"]: alarm["seen_wall_ms"] for alarm in self.alarms}
        lines = []
        for version in sorted(promoted):
            training = self.manifests[version]["training"] if version in self.manifests else {}
            alarm, used = seen.get(training.get("trigger", "")), self.first_used.get(version)
            if alarm is not None and used is not None:
                lines.append({"version": version, "alarm_to_scoring_s": _rounded((used["wall_ms"] - alarm) / 1000)})
        return lines


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


class _Readers:
    """The audit's two readers: one for what is timed, one for the rest."""

    def __init__(self, bootstrap_servers: str, audit: Audit) -> None:
        self._audit = audit
        self._timed = TopicReader(bootstrap_servers, audit.timed_topics)
        self._patient = TopicReader(bootstrap_servers, audit.other_topics, options=PATIENT)
        self._behind = False

    def poll(self) -> None:
        """Book what is there; waits a moment for the next prediction, unless more of the rest is there already."""
        self._audit.read(self._timed.poll(TIMED_RECORDS, 0 if self._behind else 0.05), clock.wall_ms())
        rest = self._patient.poll(OTHER_RECORDS, 0)
        self._behind = len(rest) == OTHER_RECORDS
        self._audit.read(rest, clock.wall_ms())

    def catch_up(self) -> None:
        """Book everything that is there now; a stream that flows on does not keep this from returning."""
        readers = (self._timed, self._patient)
        ends = [reader.end_offsets() for reader in readers]
        while not all(reader.has_passed(end) for reader, end in zip(readers, ends, strict=True)):
            self.poll()

    def close(self) -> None:
        self._timed.close()
        self._patient.close()


def _serve(audit: Audit, readers: _Readers) -> None:
    while True:
        readers.poll()
        if select.select([sys.stdin], [], [], 0)[0]:
            command = sys.stdin.readline().strip()
            if not command:
                return
            if command == "report":
                readers.catch_up()
                answer = audit.report()
            elif command == "reset":
                answer = audit.reset(clock.wall_ms())
            elif command == "window":
                answer = audit.close_window(clock.wall_ms())
            else:
                answer = audit.progress()
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--pipeline", required=True, help="name of a shipped pipeline, or a file")
    parser.add_argument("--latency-sample", type=int, default=LATENCY_SAMPLE, help="measure one event in so many")
    arguments = parser.parse_args()
    audit = Audit(load_pipeline(arguments.pipeline), arguments.latency_sample)
    readers = _Readers(arguments.bootstrap_servers, audit)
    try:
        _serve(audit, readers)
    finally:
        readers.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
