"""A stage whose state is full, on the real loop and the memory broker."""

from dataclasses import replace
from threading import Event

from support.featurestages import metrics
from support.paymentstream import START
from tidemill.domain.featurespec import StateLimits
from tidemill.domain.pipeline import Pipeline
from tidemill.features.metrics import StageMetrics
from tidemill.features.process import service_spec
from tidemill.features.shell import KeyedStage
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord

FRAUD = load_pipeline("fraud")
KEYS = 6


def pipeline(when_full: str) -> Pipeline:
    limits = StateLimits.model_validate({"max_keys": 4, "when_full": when_full})
    return FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"state_limits": limits})})


def stage_on_broker(when_full: str) -> tuple[MemoryBroker, Metrics, Loop]:
    """Six customers, one event each, read two at a time."""
    broker, chosen = MemoryBroker(), pipeline(when_full)
    for role in ("events", "labels", "by-terminal", "dlq", "customer-state"):
        broker.create_topic(FRAUD.topic(role), 1)
    for number in range(KEYS):
        value = b'{"v":1,"id":"p%d","event_time":%d,"customer":"c%d","terminal":"t","amount":5}'
        ts = START + number
        broker.append(OutRecord("fraud-events", b"c%d" % number, value % (number, ts, number), ts))
    declared = metrics(chosen)
    stage = KeyedStage(chosen, 0, StageMetrics(declared))
    spec = replace(service_spec(chosen, "customer"), max_idle_ms=0)
    config = RuntimeConfig(bootstrap_servers="none", pipeline="fraud", transaction_gap_ms=0, max_poll_records=2)
    return broker, declared, Loop(broker.client(spec.group), stage, spec, config, Health(spec.name, declared))


def changelog_keys(broker: MemoryBroker) -> set[bytes]:
    latest = {record.key: record.value for record in broker.read(FRAUD.topic("customer-state"))}
    return {(key or b"")[:-4] for key, value in latest.items() if value is not None}


def test_a_full_stage_stops_with_its_own_exit_code_and_commits_nothing_of_the_batch() -> None:
    broker, _, loop = stage_on_broker("stop")
    assert loop.run(Event()) == 7
    assert len(broker.read(FRAUD.topic("by-terminal"))) == 4
    assert changelog_keys(broker) == {b"c0", b"c1", b"c2", b"c3"}
    assert broker.read(FRAUD.topic("dlq")) == []


def test_evicted_keys_are_counted_and_leave_the_changelog_in_the_transaction_that_needed_their_room() -> None:
    broker, declared, loop = stage_on_broker("evict")
    loop._log.start([topic.name for topic in loop._spec.inputs], loop)
    while len(broker.read(FRAUD.topic("by-terminal"))) < KEYS:
        loop.turn()
        committed = len(broker.read(FRAUD.topic("by-terminal")))
        assert changelog_keys(broker) == {b"c%d" % number for number in range(max(0, committed - 4), committed)}
    samples = [sample for metric in declared.registry.collect() for sample in metric.samples]
    assert [at.value for at in samples if at.name == "tidemill_features_evicted_keys_total"] == [2]
