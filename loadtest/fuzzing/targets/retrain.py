"""What the retrain service reads: drift records, decisions, outcomes. Models are those of inference."""

from fuzzing import pipelines
from fuzzing.target import Decode, Target, example_values, stateless
from tidemill.errors import RecordError
from tidemill.retrain.core.policy import decide
from tidemill.retrain.core.records import decode_decision, decode_drift
from tidemill.retrain.core.situation import Situation
from tidemill.retrain.outcomes import OutcomeSource, _columns
from tidemill.runtime.service import Record


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
    """A record that is read becomes a row of the training data."""
    pipeline = pipelines.fraud()
    source = OutcomeSource(pipeline, lambda topic, start=None: None)  # type: ignore[arg-type, return-value]
    width = len(pipeline.feature_names)

    def read(data: bytes) -> object:
        row = source._row(Record("fraud-outcomes", 0, 0, 0, b"c-1", data))
        return _columns([row] if len(row.features) == width else [], width, pipeline.model.output)

    return stateless(example_values("fraud-outcome"), read, RecordError)
