"""What a stage is behind: records that are left and may not wait, whatever markers and delays there are."""

from unittest.mock import Mock

from endurance import BEHIND_PREDICTIONS
from enduring.lag import distances, due, readings
from tidemill.drift.process import service_spec as drift_spec
from tidemill.ingest.process import service_spec as ingest_spec
from tidemill.ingest.sources import Intakes
from tidemill.local.stack import service_commands
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

DELAYS = {"labels": 0, "predictions": 1_000}


def record(topic: str, partition: int, timestamp: int) -> Record:
    return Record(topic, partition, 0, timestamp, None, None)


def test_every_service_of_a_stack_but_retraining_is_looked_at() -> None:
    pipeline = load_pipeline("fraud")
    names = {name for name, _, _ in service_commands(pipeline)}
    assert {one.service for one in readings(pipeline)} == names - {"retrain"}


def test_groups_and_inputs_are_those_of_the_services() -> None:
    pipeline = load_pipeline("fraud")
    found = {one.service: one for one in readings(pipeline)}
    drift = drift_spec(pipeline, Mock())
    assert (found["drift"].group, found["drift"].inputs) == (drift.group, drift.inputs)
    topics = {source.topic: Mock() for source in pipeline.ingest.sources if source.topic}
    ingest = ingest_spec(pipeline, Intakes(topics, {}))
    assert (found["ingest"].group, found["ingest"].inputs) == (ingest.group, ingest.inputs)


def test_who_writes_comes_before_who_reads() -> None:
    """So that one look after the other is enough: behind a stage that is through, nothing new comes."""
    pipeline = load_pipeline("fraud")
    order = [one.service for one in readings(pipeline)]
    assert order == ["ingest", "features-customer", "features-terminal", "inference", "features-outcomes", "drift"]
    assert set(order[order.index("inference") + 1 :]) == BEHIND_PREDICTIONS


def test_a_distance_is_never_negative() -> None:
    done = {("a", 0): 10, ("a", 1): 7, ("a", 2): 9}
    assert distances(done, {("a", 0): 10, ("a", 1): 9, ("a", 2): 8}) == {("a", 0): 0, ("a", 1): 2, ("a", 2): 0}


def test_records_of_an_undelayed_topic_may_not_wait() -> None:
    assert due([record("labels", 0, 50), record("labels", 1, 10)], DELAYS, 50) == 2
    assert due([], DELAYS, 50) == 0


def test_records_of_a_delayed_topic_may_wait_until_time_has_passed_them() -> None:
    left = [record("predictions", 0, 100), record("predictions", 0, 200), record("predictions", 1, 300)]
    assert due(left, DELAYS, 1_100) == 0
    assert due(left, DELAYS, 1_101) == 1
    assert due(left, DELAYS, 1_301) == 3
    assert due(left, DELAYS, None) == 0


def test_a_delayed_record_behind_a_newer_one_waits_with_it() -> None:
    left = [record("predictions", 0, 500), record("predictions", 0, 100), record("predictions", 1, 100)]
    assert due(left, DELAYS, 1_200) == 1
