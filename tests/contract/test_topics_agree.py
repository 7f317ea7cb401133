"""The topic files, AsyncAPI, the schemas, the fraud pipeline and compose.yaml speak of the same topics."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.joinedpipeline import JOINED_FRAUD
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.topics import USER, TopicDefinition, plan
from tidemill_schemas import asyncapi, load_json, load_schema, schema_names, topic_definitions

ROOT = Path(__file__).parents[2]
PIPELINE = load_pipeline("fraud")
PLANNED = {topic.name: topic for topic in plan(PIPELINE)}
STAGES = [*(f"features-{stage.entity}" for stage in PIPELINE.features.stages), "features-outcomes"]
SERVICES = {"ingest", *STAGES, "inference", "drift", "retrain"}
MEMBERS = {
    *("role", "per", "name", "holds", "owner", "written_by", "read_by", "key", "timestamp"),
    *("schemas", "partitions", "may_add_partitions", "retention", "config"),
}
RAW = {"fraud-raw-payments": {"fraud-raw-payment"}, "fraud-raw-chargebacks": {"fraud-raw-chargeback"}}


def _services(names: tuple[str, ...]) -> set[str]:
    expanded = {stage for name in names if name == "features" for stage in STAGES} | set(names)
    return expanded & SERVICES


def _messages(topic: TopicDefinition) -> set[str]:
    if topic.owner == USER:
        return RAW[topic.name]
    return set(topic.schemas) or {"model-chunk" if topic.role == "model-chunks" else "state"}


def test_the_pipeline_has_the_topics_of_the_design() -> None:
    roles = ["events", "labels", "by-terminal", "features", "predictions", "shadow", "outcomes", "drift", "decisions"]
    roles += ["models", "model-chunks", "dlq", "dlq-replays", "raw-payments", "raw-chargebacks"]
    roles += [f"{stage}-state" for stage in ("customer", "terminal", "outcomes", "inference", "drift", "retrain")]
    assert sorted(PLANNED) == sorted(f"fraud-{role}" for role in roles)


def test_each_second_stream_has_a_topic_of_its_own_that_the_first_stage_reads() -> None:
    planned = {topic.name: topic for topic in plan(JOINED_FRAUD)}
    assert planned.keys() - PLANNED.keys() == {
        *("fraud-raw-limits", "fraud-raw-logins", "fraud-stream-limits", "fraud-stream-logins")
    }
    topic, events = planned["fraud-stream-limits"], planned["fraud-events"]
    assert (topic.schemas, topic.written_by, topic.read_by) == (
        *(("stream-record",), ("ingest",), ("features-customer",)),
    )
    assert (topic.partitions, topic.configs) == (events.partitions, events.configs)
    assert set(JOINED_FRAUD.first_topics().values()) <= planned.keys()


@pytest.mark.parametrize("definition", topic_definitions(), ids=lambda definition: definition["role"])
def test_topic_files_have_known_members_and_name_known_services(definition: dict[str, Any]) -> None:
    assert definition.keys() <= MEMBERS
    assert MEMBERS - {"per", "name", "may_add_partitions"} <= definition.keys()
    known = SERVICES | {"features", "producers", "users", "features-{first}", "features-{last}"}
    known |= {"features-{entity}", "features-{previous}", "{idle_writer}"}
    assert set(definition["written_by"]) | set(definition["read_by"]) <= known


@pytest.mark.parametrize("topic", PLANNED.values(), ids=lambda topic: topic.name)
def test_topics_are_named_for_kafka_and_their_schemas_exist(topic: TopicDefinition) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,249}", topic.name)
    assert set(topic.schemas) <= {name for name, _ in schema_names()}
    assert "{" not in topic.owner + "".join(topic.written_by + topic.read_by)


def test_asyncapi_has_exactly_the_planned_topics_with_their_partitions_and_settings() -> None:
    channels = asyncapi()["channels"]
    assert sorted(channels) == sorted(PLANNED)
    for name, channel in channels.items():
        topic = PLANNED[name]
        binding = channel["bindings"]["kafka"]
        assert (channel["address"], binding["topic"]) == (name, name)
        assert binding["partitions"] == topic.partitions
        assert binding["replicas"] == topic.replication_factor
        for key, value in binding["topicConfiguration"].items():
            assert (value[0] if isinstance(value, list) else str(value)) == topic.configs[key]
        assert set(channel["messages"]) == _messages(topic)


def test_asyncapi_says_who_sends_and_receives_as_the_topic_files_do() -> None:
    said = {
        (operation["tags"][0]["name"], operation["action"], operation["channel"]["$ref"].removeprefix("#/channels/"))
        for operation in asyncapi()["operations"].values()
    }
    planned = {(service, "send", name) for name, topic in PLANNED.items() for service in _services(topic.written_by)}
    planned |= {(service, "receive", name) for name, topic in PLANNED.items() for service in _services(topic.read_by)}
    assert said == planned


def test_every_reference_in_asyncapi_resolves() -> None:
    document = asyncapi()
    for reference in _references(document):
        if reference.startswith("#/"):
            found: Any = document
            for part in reference[2:].split("/"):
                found = found[part]
        else:
            assert load_json(reference.removeprefix("./"))
    assert set(document["components"]["messages"]) == {
        message for channel in document["channels"].values() for message in channel["messages"]
    }


def test_feature_counts_of_the_schemas_are_those_of_the_pipeline() -> None:
    first = len(PIPELINE.features.stages[0].features)
    for name, width in (("fraud-by-terminal", first), ("fraud-features", len(PIPELINE.feature_names))):
        features = load_schema(name)["properties"]["features"]
        assert (features["minItems"], features["maxItems"]) == (width, width)


def test_schemas_name_the_pipelines_fields_decisions_and_bounds() -> None:
    event, label = load_schema("fraud-event"), load_schema("fraud-label")
    numbers = PIPELINE.event.numbers
    assert list(event["properties"]) == ["v", "id", "event_time", *PIPELINE.event.entities, *numbers]
    assert list(label["properties"]) == [
        *("v", "id", "event_time", "known_at"),
        *PIPELINE.event.entities,
        PIPELINE.label.field,
    ]
    for name, number in numbers.items():
        assert (event["properties"][name]["minimum"], event["properties"][name]["maximum"]) == (number.min, number.max)
    prediction = load_schema("fraud-prediction")["properties"]
    assert set(prediction["decision"]["enum"]) == {PIPELINE.decision.positive, PIPELINE.decision.negative}
    assert list(prediction["outputs"]["properties"]) == [PIPELINE.model.output]


def test_the_raw_schemas_have_every_field_that_the_sources_read() -> None:
    for source in PIPELINE.ingest.sources:
        assert source.topic is not None
        (name,) = RAW[source.topic]
        read = {field.source or name for name, field in source.fields.items()}
        assert read | {source.version_field} == set(load_schema(name)["properties"])


def test_compose_names_topics_of_the_pipeline_only() -> None:
    compose = ROOT / "compose.yaml"
    if not compose.is_file():
        pytest.skip("there is no compose.yaml in this source tree")
    text = compose.read_text(encoding="utf-8")
    assert YAML(typ="safe").load(text)["services"]
    prefixes = "|".join(sorted({name.removeprefix("fraud-").partition("-")[0] for name in PLANNED}))
    named = set(re.findall(rf"\bfraud-(?:{prefixes})[a-z0-9-]*", text))
    assert named <= set(PLANNED)


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [reference for inner in value.values() for reference in _references(inner)]
    return [reference for inner in value for reference in _references(inner)] if isinstance(value, list) else []
