"""What the drift service reads: predictions, outcomes, its own state."""

from fuzzing import pipelines
from fuzzing.target import Decode, Target, example_values, pair, stateless, unpaired
from tidemill.drift.changelog import EMITTED, GENERATION, SNAPSHOT, Changelog
from tidemill.drift.core.records import decode_outcome, decode_prediction
from tidemill.drift.metrics import DECLARED
from tidemill.drift.river_detectors import Adwin
from tidemill.drift.shell import DriftService
from tidemill.errors import RecordError, StateCorrupt
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import Record

_PREDICTIONS, _OUTCOMES = example_values("fraud-prediction"), example_values("fraud-outcome")
_AT = 1_522_540_831_000


def predictions() -> Target:
    return stateless(_PREDICTIONS, decode_prediction, RecordError)


def outcomes() -> Target:
    return stateless(_OUTCOMES, decode_outcome, RecordError)


def state() -> Target:
    """A key of the changelog and its value."""

    def restore(data: bytes) -> object:
        log = Changelog()
        log.restore(0, [unpaired(data)])
        beginning = log.beginning()
        return log.emitted(), log.starts(beginning.snapshot.generation), list(log.keys())

    seeds = [
        pair(GENERATION, b'{"generation":0,"offsets":{"fraud-predictions":12},"v":1}'),
        pair(EMITTED, b'{"generation":3,"statistics_upto":1522540831000,"alarms":["a-1"],"v":1}'),
        pair(SNAPSHOT, b'{"snapshot":{"generation":2},"versions":{"0":1,"1":null},"v":1}'),
        pair(b"key/c-1", b"1522540831000"),
    ]
    return stateless(seeds, restore, StateCorrupt)


def service() -> Target:
    """Predictions and outcomes through the detectors; without a model, so that no manifest is looked up."""
    pipeline = pipelines.fraud()
    metrics = Metrics({"pipeline": "fraud", "service": "drift"}, DECLARED)
    predictions, outcomes = pipeline.topic("predictions"), pipeline.topic("outcomes")

    def fresh() -> Decode:
        running = DriftService(pipeline, Adwin, lambda _: None, 1, metrics)  # type: ignore[arg-type, return-value]
        running.restore(0, [])
        running.replay_from({(predictions, 0): 0, (outcomes, 0): 0})
        offset = 0

        def decode(data: bytes) -> object:
            nonlocal offset
            offset += 1
            topic = outcomes if b'"label_status"' in data else predictions
            running.add([Record(topic, 0, offset, _AT + offset, b"c-1", data)], float(offset))
            output = running.flush(float(offset) + 10.0)
            running.committed()
            return output

        return decode

    return Target([*_PREDICTIONS, *_OUTCOMES], fresh)
