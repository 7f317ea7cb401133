"""From a pipeline to its topics, and from those to what a broker must change."""

import dataclasses
from typing import Any

import pytest
from topicadmin import MemoryTopics, as_existing

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.topics import AddPartitions, AlterConfig, Conflict, Create, TopicDefinition, apply, diff, plan

FRAUD = load_pipeline("fraud")


def planned(pipeline: Pipeline = FRAUD) -> dict[str, TopicDefinition]:
    return {topic.name: topic for topic in plan(pipeline)}


def changed(**topics: Any) -> Pipeline:
    return FRAUD.model_copy(update={"topics": FRAUD.topics.model_copy(update=topics)})


def test_partitions_of_the_pipeline_apply_to_all_topics_that_are_read_together() -> None:
    found = planned(changed(partitions=12))
    assert {name for name, topic in found.items() if topic.partitions == 1} == {
        *("fraud-drift", "fraud-decisions", "fraud-models", "fraud-model-chunks", "fraud-retrain-state"),
        "fraud-dlq-replays",
    }
    assert {topic.partitions for topic in found.values()} == {1, 12}


def test_a_pipeline_that_says_nothing_gets_four_partitions() -> None:
    assert planned(changed(partitions=None))["fraud-events"].partitions == 4


def test_retention_covers_what_the_pipeline_looks_back_at_unless_it_says_otherwise() -> None:
    day = 86_400_000
    found = planned(changed(retention_ms=None))
    assert found["fraud-events"].configs["retention.ms"] == str((30 + 7) * day + 3_600_000), "the longest window"
    assert found["fraud-decisions"].configs["retention.ms"] == "-1"
    assert planned(changed(retention_ms=30 * day))["fraud-dlq"].configs["retention.ms"] == str(30 * day)


def test_a_write_survives_the_loss_of_a_replica_as_soon_as_there_are_three() -> None:
    for replicas, insync in ((1, "1"), (2, "1"), (3, "2"), (5, "2")):
        found = planned(changed(replication_factor=replicas))
        assert {(topic.replication_factor, topic.configs["min.insync.replicas"]) for topic in found.values()} == {
            (replicas, insync)
        }


def test_each_stage_has_its_state_and_each_later_stage_its_input() -> None:
    found = planned()
    assert found["fraud-by-terminal"].written_by == ("features-customer",)
    assert found["fraud-by-terminal"].read_by == ("features-terminal",)
    assert found["fraud-features"].owner == "features-terminal"
    assert found["fraud-events"].read_by == ("features-customer",)
    for state in ("customer", "terminal", "outcomes", "inference", "drift"):
        assert found[f"fraud-{state}-state"].configs["cleanup.policy"] == "compact"


def test_one_stage_needs_no_topic_between_stages() -> None:
    features = FRAUD.features.model_copy(update={"stages": FRAUD.features.stages[:1]})
    found = planned(FRAUD.model_copy(update={"features": features}))
    assert "fraud-by-terminal" not in found
    assert found["fraud-features"].written_by == ("features-customer",)


def test_underscores_of_entities_become_hyphens() -> None:
    assert FRAUD.topic("by-card_holder") == "fraud-by-card-holder"


def test_a_broker_without_topics_gets_them_all_and_then_nothing_more() -> None:
    broker = MemoryTopics()
    done = apply(broker, plan(FRAUD))
    assert {type(action) for action in done} == {Create}
    assert sorted(broker.topics) == sorted(planned())
    assert apply(broker, plan(FRAUD)) == []


def test_settings_that_differ_are_set_and_others_left_alone() -> None:
    events = planned()["fraud-events"]
    broker = MemoryTopics(as_existing(events)._replace(configs={**events.configs, "retention.ms": "5", "x": "y"}))
    actions = diff([events], broker.topics)
    assert actions == [AlterConfig("fraud-events", {"retention.ms": ("5", "-1")})]
    apply(broker, [events])
    assert broker.topics["fraud-events"].configs == {**events.configs, "x": "y"}


def test_a_users_topic_is_created_but_never_altered() -> None:
    raw = planned()["fraud-raw-payments"]
    assert diff([raw], {}) == [Create(raw)]
    theirs = as_existing(raw)._replace(partitions=1, configs={"retention.ms": "60000"})
    assert diff([raw], {raw.name: theirs}) == []


def test_partitions_are_added_only_where_no_key_would_move() -> None:
    found = planned(changed(partitions=8))
    before = {name: as_existing(topic)._replace(partitions=4) for name, topic in planned().items()}
    actions = {action.name: action for action in diff(found.values(), before)}
    assert actions["fraud-dlq"] == AddPartitions("fraud-dlq", 4, 8)
    assert isinstance(actions["fraud-events"], Conflict)
    assert "keys would change partition" in actions["fraud-events"].reason
    assert "fraud-raw-payments" not in actions


@pytest.mark.parametrize(
    ("existing", "reason"),
    [({"partitions": 9}, "partitions cannot be removed"), ({"replication_factor": 1}, "kafka-reassign-partitions")],
)
def test_a_conflict_changes_nothing_anywhere(existing: dict[str, int], reason: str) -> None:
    topics = plan(changed(replication_factor=3))
    events = next(topic for topic in topics if topic.name == "fraud-events")
    broker = MemoryTopics(as_existing(events)._replace(**existing))
    with pytest.raises(ConfigurationError, match=reason) as caught:
        apply(broker, topics)
    assert broker.calls == []
    assert "nothing was changed" in caught.value.message


def test_more_replicas_than_planned_are_welcome() -> None:
    events = planned()["fraud-events"]
    assert diff([events], {events.name: as_existing(events)._replace(replication_factor=3)}) == []


def test_what_changes_is_done_in_one_pass() -> None:
    topics = [planned()[name] for name in ("fraud-dlq", "fraud-events", "fraud-labels")]
    broker = MemoryTopics(
        as_existing(topics[0])._replace(partitions=2),
        as_existing(dataclasses.replace(topics[1], configs={"cleanup.policy": "compact"})),
    )
    apply(broker, topics)
    assert broker.calls == [("create", "fraud-labels"), ("extend", "fraud-dlq"), ("alter", "fraud-events")]
    assert diff(topics, broker.topics) == []
