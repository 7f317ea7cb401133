"""Random summaries and streams for stages whose windows close, and such stages driven record by record."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from support.featurestages import metrics
from support.featurestreams import SHOP
from support.summaryoracle import Mark, Payment, Written
from tidemill.domain.featurespec import FeatureSpec, StageSpec
from tidemill.domain.pipeline import Pipeline, TopicSettings
from tidemill.domain.summaryspec import SummarySpec
from tidemill.features.core.watermark import Watermark
from tidemill.features.metrics import StageMetrics, SummaryMetrics
from tidemill.features.summarizing import SummarizingStage
from tidemill.runtime.service import Output, OutRecord, Record

SECOND = 1_000
LONG = 100_000 * SECOND
PARTITIONS = 2
FIELDS: tuple[dict[str, Any], ...] = (
    {"name": "payments", "aggregate": "count"},
    {"name": "web_payments", "aggregate": "count", "where": 'channel == "web"'},
    {"name": "spent", "aggregate": "sum", "field": "amount"},
    {"name": "mean_large", "aggregate": "mean", "field": "amount", "where": "amount > 12.5"},
    {"name": "smallest", "aggregate": "min", "field": "amount"},
    {"name": "largest", "aggregate": "max", "field": "amount", "where": 'channel == "web"'},
    {"name": "spread", "aggregate": "std", "field": "amount"},
    {"name": "opening", "aggregate": "first", "field": "amount"},
    {"name": "closing", "aggregate": "last", "field": "amount"},
    {"name": "web_share", "aggregate": "share", "field": "channel", "equals": "web"},
)
WINDOWS: tuple[dict[str, Any], ...] = (
    {"type": "tumbling", "size": 10 * SECOND},
    {"type": "hopping", "size": 12 * SECOND, "hop": 4 * SECOND},
    {"type": "session", "gap": 3 * SECOND, "within": LONG},
)


def summaries(chance: random.Random, within: int = LONG) -> tuple[SummarySpec, ...]:
    """One to three, dropping or correcting."""
    made = []
    for number in range(chance.randint(1, 3)):
        window = dict(chance.choice(WINDOWS))
        if window["type"] == "session":
            window["within"] = within
        keeps = chance.choice([0, 0, 5 * SECOND, 20 * SECOND, LONG])
        said = {"on_late": "correct", "corrections_for": keeps} if keeps else {}
        chosen = chance.sample(FIELDS, chance.randint(1, len(FIELDS)))
        made.append(SummarySpec.model_validate({"name": f"s-{number}", "window": window, "fields": chosen, **said}))
    return tuple(made)


def shop(first: Sequence[SummarySpec], lateness: int, second: Sequence[SummarySpec] | None = None) -> Pipeline:
    """A stage of customers, and where `second` is given one of terminals, each with one feature and these summaries."""
    count = {"aggregate": "count", "window": 60 * SECOND}
    stages = [StageSpec(entity="customer", features=(FeatureSpec(name="f1", **count),), summaries=tuple(first))]
    if second is not None:
        stages.append(
            StageSpec(entity="terminal", features=(FeatureSpec(name="f2", **count),), summaries=tuple(second))
        )
    update = {"stages": tuple(stages), "allowed_lateness": lateness, "idle_timeout": 5 * SECOND}
    features = SHOP.features.model_copy(update=update)
    return SHOP.model_copy(update={"features": features, "topics": TopicSettings(partitions=PARTITIONS)})


class Counted(SummaryMetrics):
    """Adds up what is reported."""

    def __init__(self) -> None:
        self.missed = self.first = self.corrections = self.windows = self.idle = self.handed_on = 0

    def written(self, *, first: int, corrections: int, missed: int, windows: int) -> None:
        self.first, self.corrections, self.windows = self.first + first, self.corrections + corrections, windows
        self.missed += missed

    def watermarks(self, *, idle: int, handed_on: int) -> None:
        self.idle, self.handed_on = self.idle + idle, self.handed_on + handed_on


def stage_of(pipeline: Pipeline, index: int = 0, counted: SummaryMetrics | None = None) -> SummarizingStage:
    reported = metrics(pipeline)
    return SummarizingStage(pipeline, index, StageMetrics(reported), counted or SummaryMetrics(reported))


def arrivals(chance: random.Random, count: int, *, marks: bool = True) -> list[Payment | Mark]:
    """Payments around a moving clock, some repeated, late or long after, and now and then a watermark record."""
    items: list[Payment | Mark] = []
    clock = 1_000 * SECOND
    keys = ["a", "b", "schlüssel"][: chance.randint(1, 3)]
    for number in range(count):
        payments = [item for item in items if isinstance(item, Payment)]
        if payments and chance.random() < 0.12:
            items.append(chance.choice(payments[-20:]))
            continue
        if marks and chance.random() < 0.06:
            items.append(Mark(clock + chance.randint(-5, 10) * SECOND))
            continue
        step = chance.choice(
            [0, 1, 4, chance.randint(-5, -1), chance.randint(-8, 8), chance.randint(-25, 0), chance.choice([0, 9, 40])]
        )
        time = max(0, clock + step * SECOND + chance.choice([0, 0, 1, -1]))
        clock = max(clock, time)
        cents = chance.choice([chance.randint(0, 5_000), chance.randint(0, 5_000), 1_250, 0, 9_999_999])
        items.append(Payment(chance.choice(keys), number, time, cents, chance.choice(["web", "app"])))
    return items


def as_record(item: Payment | Mark, offset: int = 0, partition: int = 0) -> Record:
    if isinstance(item, Mark):
        value = Watermark(1, "customer", partition, item.watermark).encode()
        return Record("fraud-events", partition, offset, 0, None, value)
    document = {"v": 1, "id": f"p{item.identity}", "event_time": item.time, "customer": item.key, "terminal": "t"}
    value = orjson.dumps({**document, "amount": item.cents / 100, "channel": item.channel})
    return Record("fraud-events", partition, offset, item.time, item.key.encode(), value)


def written(records: Iterable[OutRecord | Record], entity: str = "customer") -> list[Written]:
    """The summaries among what a stage wrote, in order."""
    documents = [orjson.loads(record.value or b"") for record in records if record.topic == f"fraud-{entity}-summaries"]
    return [
        Written(at["summary"], at["key"], at["window_start"], at["window_end"], at["revision"], at["values"])
        for at in documents
    ]


def flushed(stage: SummarizingStage, items: Sequence[Payment | Mark], changelog: dict[bytes, bytes]) -> Output:
    """One transaction; what it says of the state is applied to `changelog`."""
    stage.add([as_record(item) for item in items], 0.0)
    output = stage.flush(0.0)
    for _, key, value in output.state:
        if value is None:
            changelog.pop(key, None)
        else:
            changelog[key] = value
    return output
