"""Both stages and the join on the real loop and the memory broker: a process that dies anywhere changes no byte."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from support.featurestages import join_metrics, keyed_stage, metrics
from support.joinedpipeline import JOINED_FRAUD
from support.joinedstream import payments_limits_and_logins
from support.paymentstream import payments_and_labels
from tidemill.domain.durations import LONGEST_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.features.outcomes import OutcomeStage
from tidemill.features.process import service_spec
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord, Service
from tidemill.runtime.transaction import Step

FRAUD = load_pipeline("fraud")
PARTITIONS = 2
PAID = payments_and_labels("fraud", PARTITIONS, count=600, days=50, seed=1)
Seen = tuple[int, bytes | None, int, bytes]
TOPICS = (
    *("events", "labels", "by-terminal", "features", "predictions", "shadow", "outcomes", "dlq"),
    *("customer-state", "terminal-state", "outcomes-state"),
)


class DiedError(BaseException):
    """The process died here."""


@dataclass
class Dying:
    """Dies after a random protocol step, on average every fifth transaction."""

    chance: random.Random | None

    def __call__(self, step: Step) -> None:
        if self.chance is not None and self.chance.random() < 0.04:
            raise DiedError


def process(pipeline: Pipeline, stage: str, broker: MemoryBroker, dying: Dying, batch: int) -> Loop:
    # Nothing more comes: partitions at their end should count as resting soon, and hold nothing back: who may die at
    # each of thousands of turns a second would not live that long.
    spec = replace(service_spec(pipeline, stage), max_idle_ms=200, max_skew_ms=LONGEST_MS)
    client = broker.client(spec.group)
    service: Service
    if stage == "outcomes":
        service = OutcomeStage(pipeline, join_metrics(pipeline))
    else:
        service = keyed_stage(pipeline, ["customer", "terminal"].index(stage))
    config = RuntimeConfig(bootstrap_servers="none", pipeline="fraud", transaction_gap_ms=0, max_poll_records=batch)
    loop = Loop(client, service, spec, config, Health(spec.name, metrics(pipeline)))
    loop.after_step = dying
    client.start([topic.name for topic in spec.inputs], loop)
    return loop


def run_stage(pipeline: Pipeline, stage: str, broker: MemoryBroker, dying: Dying, batch: int) -> None:
    """Until everything that is there has been read and committed."""
    spec = service_spec(pipeline, stage)
    ends = {
        (record.topic, record.partition): record.offset + 1
        for topic in spec.inputs
        for record in broker.read(topic.name)
    }
    loop = process(pipeline, stage, broker, dying, batch)
    while any(broker.group(spec.group).offsets.get(at, 0) < end for at, end in ends.items()):
        try:
            loop.turn()
        except DiedError:
            loop = process(pipeline, stage, broker, dying, batch)


def run_pipeline(
    chance: random.Random | None, batch: int, pipeline: Pipeline = FRAUD, stream: Sequence[OutRecord] = PAID
) -> dict[str, list[Seen]]:
    """What a reader sees in every topic but the changelogs, after all stages have run; inference is a stand-in."""
    broker = MemoryBroker()
    for role in dict.fromkeys((*TOPICS, *pipeline.first_topics())):
        broker.create_topic(pipeline.topic(role), PARTITIONS)
    for record in stream:
        broker.append(record)
    dying = Dying(chance)
    run_stage(pipeline, "customer", broker, dying, batch)
    run_stage(pipeline, "terminal", broker, dying, batch)
    for number, record in enumerate(broker.read(FRAUD.topic("features"))):
        key, time, value = record.key, record.timestamp, (record.value or b"")[:-1]
        decided = value + b',"decision":"approve"}'
        broker.append(OutRecord(FRAUD.topic("predictions"), key, decided, time, record.partition))
        if number % 3 == 0:
            score = value.split(b',"customer"')[0] + b',"model_version":2,"outputs":{"score":0.5}}'
            broker.append(OutRecord(FRAUD.topic("shadow"), key, score, time, record.partition))
    run_stage(pipeline, "outcomes", broker, dying, batch)
    return {role: seen(broker, role) for role in ("by-terminal", "features", "outcomes")}


def seen(broker: MemoryBroker, role: str) -> list[Seen]:
    return [(at.partition, at.key, at.timestamp, at.value or b"") for at in broker.read(FRAUD.topic(role))]


def test_everything_comes_through_once_and_is_labelled() -> None:
    topics = run_pipeline(None, 50)
    ids = [value.split(b'"')[5] for _, _, _, value in topics["features"]]
    assert len(ids) == len(set(ids)) > 580
    assert len(topics["outcomes"]) == len(ids)
    unlabelled = {value.split(b'"')[5] for _, _, _, value in topics["outcomes"] if b'"labelled"' not in value}
    assert len(unlabelled) < 6, "only of events two days behind all others, whose labels came after the maturity"
    assert sum(b'"shadow":{' in value for _, _, _, value in topics["outcomes"]) == len(ids) // 3


@pytest.mark.parametrize("seed", range(4))
def test_deaths_after_any_step_change_no_byte_of_any_output(seed: int) -> None:
    assert run_pipeline(random.Random(seed), 20 + seed * 17) == run_pipeline(None, 50)


@pytest.mark.parametrize("seed", range(3))
def test_deaths_change_no_byte_where_second_streams_are_joined(seed: int) -> None:
    stream = payments_limits_and_logins(PARTITIONS, count=500, days=50, seed=2)
    undisturbed = run_pipeline(None, 50, JOINED_FRAUD, stream)
    assert len(undisturbed["outcomes"]) == len(undisturbed["features"]) > 480
    assert run_pipeline(random.Random(seed), 20 + seed * 17, JOINED_FRAUD, stream) == undisturbed
