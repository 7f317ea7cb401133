"""The join as a service of the runtime: labels, shadow scores and matured predictions in, outcomes out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
import orjson

from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.join import Label, OutcomeJoin, Shadow, Verdict
from tidemill.features.metrics import JoinMetrics
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, StateEntry

_Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
_Truth = Annotated[int, msgspec.Meta(ge=0, le=1)]


def outcome_inputs(pipeline: Pipeline) -> tuple[InputTopic, ...]:
    """Labels as they become known; shadow scores and predictions once matured, a score before its prediction."""
    maturity = pipeline.outcomes.maturity
    return (
        InputTopic(pipeline.topic("labels")),
        InputTopic(pipeline.topic("shadow"), maturity),
        InputTopic(pipeline.topic("predictions"), maturity),
    )


class OutcomeStage:
    """Writes one outcome a prediction: its bytes with the truth spliced in (implements runtime.service.Service).

    A shadow score and its prediction were written in one transaction with one timestamp, so the order of
    `outcome_inputs` brings the score first. Late labels become dead letters; every other rule is in `core.join`.
    """

    def __init__(self, pipeline: Pipeline, metrics: JoinMetrics) -> None:
        self._rules = pipeline.outcomes
        self._output = pipeline.topic("outcomes")
        self._labels, self._shadows, self._predictions = (topic.name for topic in outcome_inputs(pipeline))
        self._score = pipeline.model.output
        self._label = _decoder(("known_at", _Time), ("value", _Truth), value=pipeline.label.field)
        self._shadow = _decoder(("model_version", _Version), ("outputs", dict[str, float]))
        self._prediction = _decoder(("decision", str))
        self._too_late = f"known more than {self._rules.maturity} ms after its event, or after its outcome was written"
        self._joins: dict[int, OutcomeJoin] = {}
        self._pending: list[Record] = []
        self._metrics = metrics

    def add(self, records: Sequence[Record], now: float) -> None:
        self._pending += records

    def wake_at(self) -> float | None:
        """Never: the loop flushes when records were added and its pace allows."""
        return None

    def flush(self, now: float) -> Output:
        records, self._pending = self._pending, []
        output = Output()
        taken: Counter[str] = Counter()
        written: Counter[str] = Counter()
        touched: dict[int, OutcomeJoin] = {}
        for record in records:
            join = touched.get(record.partition)
            if join is None:
                join = touched[record.partition] = self._joins.setdefault(record.partition, OutcomeJoin(self._rules))
            try:
                if record.topic == self._labels:
                    row = self._label(record.value)
                    result = join.label(Label(row.id, row.event_time, row.known_at, row.value))
                    taken[result] += 1
                    if result == "late":
                        output.dead.append(DeadLetter(record, "late", self._too_late))
                elif record.topic == self._shadows:
                    row = self._shadow(record.value)
                    join.shadow(Shadow(row.id, row.event_time, row.model_version, row.outputs[self._score]))
                else:
                    row = self._prediction(record.value)
                    verdict = join.prediction(row.id, row.event_time, row.decision)
                    written[verdict.status] += 1
                    value = (record.value or b"").rstrip()[:-1] + self._tail(verdict)
                    matured = row.event_time + self._rules.maturity
                    output.records.append(OutRecord(self._output, record.key, value, matured))
            except (TypeError, ValueError, KeyError) as error:
                output.dead.append(DeadLetter(record, "bad_record", f"unreadable: {error}"))
        for partition, join in sorted(touched.items()):
            output.state += [StateEntry(partition, key, value) for key, value in join.pack()]
        self._observe(taken, written, touched.values())
        return output

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        join = OutcomeJoin(self._rules)
        join.restore(dict(entries))
        self._joins[partition] = join

    def drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        for partition in gone:
            self._joins.pop(partition, None)
        self._pending = [record for record in self._pending if record.partition not in gone]

    def committed(self) -> None:
        """Nothing waits for the commit: an abort is answered by `drop` and `restore`."""

    def close(self) -> None:
        self._joins.clear()

    @staticmethod
    def _tail(verdict: Verdict) -> bytes:
        shadow = verdict.shadow
        members = {
            "label": verdict.label,
            "label_status": verdict.status,
            "known_at": verdict.known_at,
            "shadow": shadow and {"model_version": shadow.model_version, "score": shadow.score},
        }
        return b"," + orjson.dumps(members)[1:]

    def _observe(self, taken: Counter[str], written: Counter[str], joins: Iterable[OutcomeJoin]) -> None:
        for result, count in taken.items():
            self._metrics.labels(result, count)
        for status, count in written.items():
            self._metrics.written(status, count)
        for join in joins:
            self._metrics.expired("label", join.expired_labels)
            self._metrics.expired("shadow", join.expired_shadows)
            join.expired_labels = join.expired_shadows = 0
        self._metrics.held(sum(join.held for join in self._joins.values()))


def _decoder(*members: tuple[str, Any], **rename: str) -> Any:
    """Decodes `id`, `event_time` and `members`, and nothing else, of a record; raises ValueError or TypeError."""
    row = msgspec.defstruct("Row", [("id", str), ("event_time", _Time), *members], rename=rename or None, gc=False)
    return msgspec.json.Decoder(row).decode
