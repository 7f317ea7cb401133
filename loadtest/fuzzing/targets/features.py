"""What feature stages read: events, labels, records of streams, watermarks; and their changelogs."""

from collections.abc import Sequence

import orjson

from fuzzing import pipelines
from fuzzing.target import Decode, Target, example_values, pair, stateless, unpaired
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import StateCorrupt
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.features.core.join import OutcomeJoin
from tidemill.features.core.summarydefinition import compile_summaries
from tidemill.features.core.summarypartition import PartitionSummaries
from tidemill.features.core.watermark import read_watermark
from tidemill.features.metrics import FEATURES, OUTCOMES, SUMMARIES, JoinMetrics, StageMetrics, SummaryMetrics
from tidemill.features.outcomes import OutcomeStage
from tidemill.features.shell import KeyedStage
from tidemill.features.summarizing import SummarizingStage, policy_of
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import Output, Record, Service

_START = 1_522_540_831_000
_HOUR = 3_600_000
_WATERMARKS = example_values("watermark")


def _metrics(pipeline: Pipeline) -> Metrics:
    return Metrics({"pipeline": pipeline.name, "service": "features"}, (*FEATURES, *SUMMARIES, *OUTCOMES))


def _keyed(pipeline: Pipeline, index: int) -> KeyedStage:
    return KeyedStage(pipeline, index, StageMetrics(_metrics(pipeline)))


def _summarizing() -> SummarizingStage:
    pipeline = pipelines.summarized()
    metrics = _metrics(pipeline)
    return SummarizingStage(pipeline, 0, StageMetrics(metrics), SummaryMetrics(metrics))


def sample_inputs() -> list[bytes]:
    """Events of a customer over some days, and labels of some of them."""
    found = []
    for number in range(24):
        at = _START + number * 3 * _HOUR
        event = {"v": 1, "id": f"p-{number}", "event_time": at, "customer": "c-1", "terminal": "t-1"}
        found.append(orjson.dumps({**event, "amount": 12.5 + number}))
        if number % 5 == 0:
            found.append(orjson.dumps({**event, "known_at": at + 48 * _HOUR, "fraud": 1}))
    return found


def _through(service: Service, values: Sequence[bytes], key: bytes = b"c-1") -> Output:
    service.restore(0, [])
    service.add([Record("in", 0, at, _START, key, value) for at, value in enumerate(values)], 0.0)
    return service.flush(0.0)


def _taking(seeds: Sequence[bytes], make: object) -> Target:
    """Each input through a stage that keeps its state for a block of inputs; one in eight has no key."""

    def fresh() -> Decode:
        stage: Service = make()  # type: ignore[operator]
        stage.restore(0, [])
        offset = 0

        def decode(data: bytes) -> object:
            nonlocal offset
            offset += 1
            key = None if data[:9] == b'{"kind":"' or offset % 8 == 0 else b"c-1"
            stage.add([Record("in", 0, offset, _START + offset, key, data)], float(offset))
            output = stage.flush(float(offset))
            stage.committed()
            return output

        return decode

    return Target(seeds, fresh)


def events() -> Target:
    return _taking([*sample_inputs(), *_WATERMARKS], lambda: _keyed(pipelines.fraud(), 0))


def later() -> Target:
    """The records of the first stage, at the second."""
    made = _through(_keyed(pipelines.fraud(), 0), sample_inputs()).records
    return _taking([out.value or b"" for out in made], lambda: _keyed(pipelines.fraud(), 1))


def streams() -> Target:
    stream = {"v": 1, "event_time": _START, "customer": "c-1"}
    seeds = [
        orjson.dumps({**stream, "id": "l-1", "stream": "limits", "limit": 100.25}),
        orjson.dumps({**stream, "id": "g-1", "stream": "logins", "terminal": "t-1"}),
    ]
    return _taking([*seeds * 8, *sample_inputs()[:6]], lambda: _keyed(pipelines.joined(), 0))


def summaries() -> Target:
    marks = [orjson.dumps({"kind": "watermark", "v": 1, "stage": "customer", "partition": 0, "watermark": _START})]
    return _taking([*sample_inputs(), *marks * 8, *_WATERMARKS], _summarizing)


def watermarks() -> Target:
    return stateless(_WATERMARKS, read_watermark)


def outcomes() -> Target:
    """Labels, shadow scores and predictions, each in its topic by what it looks like."""
    pipeline = pipelines.fraud()

    def fresh() -> Decode:
        stage = OutcomeStage(pipeline, JoinMetrics(_metrics(pipeline)))
        stage.restore(0, [])
        roles = {b'"known_at"': "labels", b'"shadow"': "shadow", b'"decision"': "predictions"}

        def decode(data: bytes) -> object:
            role = next((role for mark, role in roles.items() if mark in data), "shadow")
            stage.add([Record(pipeline.topic(role), 0, 0, _START, b"c-1", data)], 0.0)
            return stage.flush(0.0)

        return decode

    return Target(example_values("fraud-label", "fraud-shadow", "fraud-prediction"), fresh)


def chunks() -> Target:
    """A chunk of a key's rows, as the first stage wrote it."""
    definition = compile_stage(pipelines.fraud(), 0)
    written = _through(_keyed(pipelines.fraud(), 0), sample_inputs()).state

    def restore(data: bytes) -> object:
        engine = WindowEngine(definition)
        engine.restore([unpaired(data)])
        return engine.keys

    return stateless([pair(entry.key, entry.value or b"") for entry in written], restore, StateCorrupt)


def open_windows() -> Target:
    """Windows of summaries and the watermark that closes them."""
    pipeline = pipelines.summarized()
    definitions, policy = compile_summaries(pipeline, 0).definitions, policy_of(pipeline, 0)
    written = _through(_summarizing(), sample_inputs()).state

    def restore(data: bytes) -> object:
        held = PartitionSummaries(definitions, policy)
        return held.restore([unpaired(data)]), held.pack()

    return stateless([pair(entry.key, entry.value or b"") for entry in written], restore, StateCorrupt)


def join_state() -> Target:
    """What the join of predictions with labels and shadow scores keeps."""
    pipeline = pipelines.fraud()
    stage = OutcomeStage(pipeline, JoinMetrics(_metrics(pipeline)))
    stage.restore(0, [])
    values = {"labels": "fraud-label", "shadow": "fraud-shadow", "predictions": "fraud-prediction"}
    for role, name in values.items():
        found = example_values(name, invalid=False)
        stage.add([Record(pipeline.topic(role), 0, 0, _START, b"c-1", value) for value in found], 0.0)
    written = stage.flush(0.0).state

    def restore(data: bytes) -> object:
        join = OutcomeJoin(pipeline.outcomes)
        join.restore(dict([unpaired(data)]))
        return join.held

    return stateless([pair(entry.key, entry.value or b"") for entry in written], restore, StateCorrupt)
