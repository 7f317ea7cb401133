"""What retrain reads from the drift topic, and the decisions that it writes."""

from typing import Any, Literal

import msgspec
import orjson

from tidemill.errors import RecordError

Policy = Literal["initial", "drift", "performance", "schedule", "manual"]
DecisionKind = Literal["retrain", "skip", "refused", "candidate", "promoted", "rejected", "rollback"]
FLOOR_DETECTOR = "floor"


class Alarm(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="alarm"):
    """A detector saw a change, or a floor was crossed. `model_version` is the version that was live."""

    id: str
    at: int
    policy: Literal["drift", "performance"]
    detector: str
    model_version: int | None = None
    effect: float = 0.0
    reason: str = ""


class Statistics(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="statistics"):
    """Outcomes of events before `watermark` have matured; counts are of labelled outcomes since the stream began."""

    id: str
    at: int
    watermark: int
    outcomes: int
    positives: int


class Generation(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="generation"):
    """The detectors began anew; retrain takes no part in that."""

    id: str


DriftRecord = Alarm | Statistics | Generation


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, to act or not, with its reasons. The first record of an `id` is the decision; later ones are void.

    `at` is the outcome watermark it was taken at. `model_version` is the version it is about: the one to be trained,
    judged or served.
    """

    v: Literal[1] = 1
    id: str
    kind: DecisionKind
    at: int
    policy: Policy
    trigger: str
    reason: str
    model_version: int | None
    details: dict[str, Any]

    def encode(self) -> bytes:
        return orjson.dumps(msgspec.to_builtins(self))


_DECODE_DRIFT: msgspec.json.Decoder[DriftRecord] = msgspec.json.Decoder(DriftRecord)
_DECODE_DECISION = msgspec.json.Decoder(Decision)


def decode_drift(value: bytes) -> DriftRecord:
    """Raises RecordError `schema`."""
    try:
        return _DECODE_DRIFT.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("schema", f"not a drift record: {error}") from error


def decode_decision(value: bytes) -> Decision:
    """Raises RecordError `schema`."""
    try:
        return _DECODE_DECISION.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("schema", f"not a decision: {error}") from error
