"""The audit's books: which inputs went in, which predictions came out, and whether the two agree. Pure.

It trusts no service's counters. Every raw record is either in the DLQ (matched by its position, kept in the DLQ's
headers) or its id must have exactly one prediction; the only other way out is `late`, whose dead letter holds the id.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec


class _Event(msgspec.Struct):
    id: str


class Prediction(msgspec.Struct):
    """The members of a prediction that the audit reads."""

    id: str
    event_time: int
    fs: str
    features: list[float | None]
    status: str
    model: str | None
    model_version: int | None
    outputs: dict[str, float]
    provider: str


class Ledger:
    """Books of one pipeline. Memory: about 200 bytes an input.

    `id_field` is the source's name of the event id; `vector_length` the number of features that each prediction must
    carry, `feature_set` the hash it must name.
    """

    def __init__(self, id_field: str, vector_length: int, feature_set: str) -> None:
        raw_type = msgspec.defstruct("RawRecord", [(id_field, str | int | None, None)], rename=None)
        self._raw = msgspec.json.Decoder(raw_type)
        self._id_field = id_field
        self._event = msgspec.json.Decoder(_Event)
        self._prediction = msgspec.json.Decoder(Prediction)
        self._vector_length = vector_length
        self._feature_set = feature_set
        self._ids: dict[int, dict[int, str | None]] = {}
        self._refused: set[tuple[int, int]] = set()
        self._late: set[str] = set()
        self._predicted: dict[str, int] = {}
        self.labels = 0
        self.unnamed = 0
        self.dead: Counter[str] = Counter()

    def raw(self, partition: int, offset: int, value: bytes | None) -> str | None:
        """Book one raw event; returns its id, or None where it has none that can be read."""
        try:
            event_id = getattr(self._raw.decode(value or b""), self._id_field)
        except msgspec.DecodeError:
            event_id = None
        name = None if event_id is None else str(event_id).strip()
        self._ids.setdefault(partition, {})[offset] = name
        return name

    def dead_letter(
        self, code: str, source_position: tuple[int, int] | None, value: bytes | None, *, event: bool = False
    ) -> None:
        """Book one DLQ record; `source_position` is (partition, offset) if it came from the raw event topic, `event`
        says that it came from a topic of events (a late label excuses no missing prediction)."""
        self.dead[code] += 1
        if source_position is not None:
            self._refused.add(source_position)
        elif event and code == "late" and value is not None:
            self._late.add(self._event.decode(value).id)

    def prediction(self, value: bytes) -> Prediction:
        """Book one committed prediction and check that it names its model and carries its features."""
        record = self._prediction.decode(value)
        self._predicted[record.id] = self._predicted.get(record.id, 0) + 1
        by_model = record.status == "ok" and record.model is not None and record.model_version is not None
        by_rule = record.status == "no_model" and record.model_version is None and record.provider == "rule"
        carries = record.fs == self._feature_set and len(record.features) == self._vector_length
        if not (by_model or by_rule) or not carries or not record.outputs:
            self.unnamed += 1
        return record

    @property
    def predictions(self) -> int:
        return sum(self._predicted.values())

    @property
    def raw_records(self) -> int:
        return sum(len(ids) for ids in self._ids.values())

    def balance(self, examples: int = 5) -> dict[str, Any]:
        """The books closed as they stand: counts, and a few example ids of each kind of disagreement."""
        accepted: Counter[str] = Counter()
        unreadable: list[str] = []
        for partition, ids in self._ids.items():
            for offset, name in ids.items():
                if (partition, offset) in self._refused:
                    continue
                if name is None:
                    unreadable.append(f"{partition}:{offset}")
                else:
                    accepted[name] += 1
        expected = accepted.keys() - self._late
        missing = sorted(expected - self._predicted.keys())
        foreign = sorted(self._predicted.keys() - expected)
        repeated = sorted(name for name, times in self._predicted.items() if times > 1)
        return {
            "events": len(expected),
            "predictions": self.predictions,
            "duplicates": accepted.total() - len(accepted),
            "late": len(self._late),
            "dlq": dict(sorted(self.dead.items())),
            # an unreadable record that reached no dead letter is lost as surely as a missing prediction
            "missing": len(missing) + len(unreadable),
            "repeated": len(repeated),
            "foreign": len(foreign),
            "unnamed": self.unnamed,
            "examples": {
                "missing": missing[:examples] + unreadable[:examples],
                "repeated": repeated[:examples],
                "foreign": foreign[:examples],
            },
        }


def percentiles(values: Sequence[float], shares: Sequence[float]) -> list[float | None]:
    """Nearest-rank percentiles, None without values."""
    if not values:
        return [None for _ in shares]
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in shares]
