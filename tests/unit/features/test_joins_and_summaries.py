"""A stage that joins second streams and sums up windows: it writes what it would write of each without the other."""

import pytest

from support.featurestages import keyed_stage
from support.joinedpipeline import JOINED_FRAUD, NOON, limit, login, payment
from support.summarystreams import stage_of, written
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.summaryspec import SummarySpec
from tidemill.features.core.watermark import Watermark
from tidemill.features.shell import KeyedStage
from tidemill.runtime.service import OutRecord, Record

_MINUTES = SummarySpec.model_validate(
    {
        "name": "by-minute",
        "window": {"type": "tumbling", "size": "1m"},
        "fields": [
            {"name": "payments", "aggregate": "count"},
            {"name": "spent", "aggregate": "sum", "field": "amount", "where": "amount > 1"},
        ],
    }
)


def pipeline_with(*, joins: bool, summaries: bool) -> Pipeline:
    features = JOINED_FRAUD.features
    stages = [
        stage.model_copy(
            update={
                "features": stage.features if joins else stage.features[:1],
                "summaries": (_MINUTES,) if summaries and stage.entity == "customer" else (),
            }
        )
        for stage in features.stages[: None if joins else 1]
    ]
    update = {"stages": tuple(stages), "allowed_lateness": 1_000}
    streams = JOINED_FRAUD.streams if joins else {}
    return JOINED_FRAUD.model_copy(update={"streams": streams, "features": features.model_copy(update=update)})


def stream() -> list[Record]:
    """Events, records of two streams and a watermark record, which none of them may be mistaken for."""
    records: list[Record] = []
    for at in range(40):
        when = NOON + at * 20_000
        records += [
            limit(f"l{at}", when, 100 + at),
            payment(f"p{at}", when, amount=at / 4),
            login(f"g{at}", when + 1),
            Record("fraud-events", 0, 0, when, None, Watermark(1, "customer", 0, when).encode()),
        ]
    records[70] = Record("fraud-stream-limits", 0, 0, NOON, b"c1", b'{"v":1,"stream":"limits","id":"bad"}')
    return records


def output_of(stage: KeyedStage, records: list[Record], batch: int) -> tuple[list[OutRecord], list[str]]:
    made: list[OutRecord] = []
    dead: list[str] = []
    for at in range(0, len(records), batch):
        stage.add(records[at : at + batch], 0.0)
        output = stage.flush(0.0)
        made += output.records
        dead += [letter.code for letter in output.dead]
    return made, dead


@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_streams_and_summaries_leave_each_other_alone(batch: int) -> None:
    records = stream()
    made, dead = output_of(stage_of(pipeline_with(joins=True, summaries=True)), records, batch)
    own = [record for record in records if record.topic == "fraud-events"]
    summed, _ = output_of(stage_of(pipeline_with(joins=False, summaries=True)), own, batch)
    keyed = [record for record in records if record.key]
    joined, _ = output_of(keyed_stage(pipeline_with(joins=True, summaries=False), 0), keyed, batch)

    assert dead == ["bad_record"]
    assert written(made) == written(summed)
    assert [summary.values["payments"] for summary in written(made)] == [3] * 13
    assert written(made)[2].values["spent"] == 1.5 + 1.75 + 2.0
    onward = [out for out in made if out.topic == "fraud-by-terminal"]
    assert onward == [out for out in joined if out.topic == "fraud-by-terminal"]
    assert sum(b'"features"' in (out.value or b"") for out in onward) == 40
