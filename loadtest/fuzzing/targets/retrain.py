"""What the retrain service reads: drift records, decisions, outcomes, the messages of its training process."""

import msgspec
import orjson

from fuzzing import pipelines
from fuzzing.target import Decode, Target, example_values, stateless
from tidemill.errors import RecordError
from tidemill.retrain.core.policy import decide
from tidemill.retrain.core.records import decode_decision, decode_drift
from tidemill.retrain.core.situation import Situation
from tidemill.retrain.messages import decode_job, decode_report
from tidemill.retrain.outcomes import OutcomeSource


def drift() -> Target:
    return _folding(example_values("drift"), lambda situation, data: situation.fold_drift(decode_drift(data), 1))


def decisions() -> Target:
    return _folding(example_values("decision"), lambda situation, data: situation.fold_decision(decode_decision(data)))


def _folding(seeds: list[bytes], fold: object) -> Target:
    """The record enters what retrain knows, and the policy decides on it."""
    pipeline = pipelines.fraud()

    def fresh() -> Decode:
        def decode(data: bytes) -> object:
            situation = Situation()
            situation.stream_start = 0
            fold(situation, data)  # type: ignore[operator]
            return decide(situation, pipeline, None), situation.alarms_on_champion(), situation.phase

        return decode

    return Target(seeds, fresh, (RecordError,))


def outcomes() -> Target:
    source = OutcomeSource(pipelines.fraud(), lambda topic, start=None: None)  # type: ignore[arg-type, return-value]
    return stateless(example_values("fraud-outcome"), source._decoder.decode, msgspec.DecodeError)


def messages() -> Target:
    """Lines of the training process, from standard output."""
    job = orjson.dumps({"type": "train", "version": 1, "train_from": 0, "train_to": 1, "holdout_to": 2, "seed": 7})
    report = orjson.dumps({"type": "compared", "comparison": {"a": 1.5}, "complete_at": 7})

    def decode(data: bytes) -> object:
        try:
            return decode_job(data)
        except msgspec.DecodeError:
            return decode_report(data)

    return stateless([job, report, b'{"type":"refused","reason":"Kafka is away"}'], decode, msgspec.DecodeError)
