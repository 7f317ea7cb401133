"""The topics that a pipeline needs: the definitions in schemas/ × the pipeline file, compared with a broker's.

`plan` and `diff` are pure; `apply` changes a broker through a `TopicAdmin`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill_schemas import topic_definitions

DEFAULT_PARTITIONS = 4
SHORTEST_RETENTION_MS = 14 * DAY_MS
USER = "user"
"""The owner of topics that Tidemill creates where they are missing and never alters."""


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """A topic as it should be. `role` and `schemas` are resolved names; `configs` are Kafka's topic settings."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str]
    owner: str
    role: str
    schemas: tuple[str, ...] = ()
    written_by: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()
    may_add_partitions: bool = False
    place: tuple[str | int, ...] = ()
    """What in the pipeline file asks for it; empty for the topics of every pipeline."""


class ExistingTopic(NamedTuple):
    """A topic as a broker describes it; `configs` holds the settings in force, defaults included."""

    name: str
    partitions: int
    replication_factor: int
    configs: Mapping[str, str]


class TopicAdmin(Protocol):
    """What is asked of a broker. Every call blocks and raises TidemillError when the broker refuses or is away."""

    def describe_topics(self, names: Sequence[str]) -> Mapping[str, ExistingTopic]:
        """Those of `names` that exist."""
        ...

    def create_topics(self, topics: Sequence[TopicDefinition]) -> None: ...

    def alter_configs(self, name: str, configs: Mapping[str, str]) -> None:
        """Set these; leave the topic's other settings alone."""
        ...

    def add_partitions(self, name: str, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Create:
    """The topic is missing."""

    topic: TopicDefinition

    @property
    def name(self) -> str:
        return self.topic.name


@dataclass(frozen=True, slots=True)
class AlterConfig:
    """Settings differ; `changes` maps each to (value in force, value planned)."""

    name: str
    changes: Mapping[str, tuple[str | None, str]]


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """There are too few, and nothing depends on which partition a key is in."""

    name: str
    existing: int
    planned: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The topic differs in a way that nothing can change without losing order or state."""

    name: str
    reason: str


Action = Create | AlterConfig | AddPartitions | Conflict


def plan(pipeline: Pipeline) -> list[TopicDefinition]:
    """Every topic of `pipeline`, by name; those its users write into included."""
    planned = [topic for definition in topic_definitions() for topic in _Expansion(pipeline, definition).topics()]
    return sorted(planned, key=lambda topic: topic.name)


def diff(planned: Iterable[TopicDefinition], existing: Mapping[str, ExistingTopic]) -> list[Action]:
    """What would make `existing` as `planned`; empty if it is. Topics that nobody planned are left alone."""
    actions: list[Action] = []
    for topic in planned:
        found = existing.get(topic.name)
        if found is None:
            actions.append(Create(topic))
        elif topic.owner != USER:
            actions += _differences(topic, found)
    return actions


def apply(admin: TopicAdmin, planned: Sequence[TopicDefinition]) -> list[Action]:
    """Make the broker's topics as planned and return what was done; a second call does nothing.

    Raises ConfigurationError, before anything is changed, if a topic conflicts.
    """
    actions = diff(planned, admin.describe_topics([topic.name for topic in planned]))
    conflicts = [action for action in actions if isinstance(action, Conflict)]
    if conflicts:
        raise ConfigurationError(
            "topics on the broker conflict with the plan, and nothing was changed:\n"
            + "\n".join(f"  {conflict.name}: {conflict.reason}" for conflict in conflicts),
            hint="Change topics.partitions or topics.replication_factor in the pipeline file, or give the pipeline "
            "another name to start with topics of its own.",
        )
    missing = [action.topic for action in actions if isinstance(action, Create)]
    if missing:
        admin.create_topics(missing)
    for action in actions:
        if isinstance(action, AlterConfig):
            admin.alter_configs(action.name, {name: value for name, (_, value) in action.changes.items()})
        elif isinstance(action, AddPartitions):
            admin.add_partitions(action.name, action.planned)
    return actions


def _differences(topic: TopicDefinition, found: ExistingTopic) -> Iterator[Action]:
    if found.partitions > topic.partitions or (found.partitions != topic.partitions and not topic.may_add_partitions):
        why = "partitions cannot be removed" if found.partitions > topic.partitions else "keys would change partition"
        yield Conflict(topic.name, f"it has {found.partitions} partitions, planned are {topic.partitions}: {why}")
    elif found.partitions < topic.partitions:
        yield AddPartitions(topic.name, found.partitions, topic.partitions)
    if found.replication_factor < topic.replication_factor:
        yield Conflict(
            topic.name,
            f"it is replicated {found.replication_factor} times, planned are {topic.replication_factor}: "
            "reassign its partitions first (kafka-reassign-partitions.sh)",
        )
    changes = {
        name: (found.configs.get(name), value)
        for name, value in sorted(topic.configs.items())
        if found.configs.get(name) != value
    }
    if changes:
        yield AlterConfig(topic.name, changes)


def _named(names: Iterable[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """With their placeholders filled in, but for those that this pipeline has nothing for."""
    return tuple(filled for name in names if (filled := name.format_map(known)))


class _Expansion:
    """One definition, for one pipeline."""

    def __init__(self, pipeline: Pipeline, definition: Mapping[str, Any]) -> None:
        self.pipeline = pipeline
        self.definition = definition
        self.stages = tuple(stage.entity for stage in pipeline.features.stages)

    def topics(self) -> Iterator[TopicDefinition]:
        repeat = self.definition.get("per")
        if repeat == "source":
            for position, source in enumerate(self.pipeline.ingest.sources):
                if source.topic is not None:
                    yield self._topic({}, ("ingest", "sources", position, "topic"), source.topic)
        elif repeat == "stream":
            yield from (self._topic({"stream": name}, ("streams", name)) for name in self.pipeline.streams)
        elif repeat is None:
            yield self._topic({}, ())
        else:
            for position, entity in enumerate(self.stages):
                summaries = self.pipeline.features.stages[position].summaries
                if {"stage": True, "later-stage": position > 0, "summarizing-stage": bool(summaries)}[repeat]:
                    named = {"entity": entity, "previous": self.stages[position - 1]}
                    yield self._topic(named, ("features", "stages", position, "entity"))

    def _topic(
        self, names: Mapping[str, str], place: tuple[str | int, ...], topic_name: str | None = None
    ) -> TopicDefinition:
        features = self.pipeline.features
        summarized = bool(features.summaries_behind(-1))
        later = self.stages.index(names["entity"]) if "entity" in names else len(self.stages)
        known = {
            "first": self.stages[0],
            "last": self.stages[-1],
            "pipeline": self.pipeline.name,
            "event": self.pipeline.event.schema_name,
            "label": self.pipeline.label.schema_name,
            "version": self.pipeline.features.suffix,
            "idle_writer": f"features-{self.stages[0]}" if summarized and features.idle_timeout else "",
            "idle_watermark": "watermark" if summarized and features.idle_timeout else "",
            "watermark": "watermark" if features.summaries_behind(later - 1) else "",
            **names,
        }
        definition = self.definition
        role = definition["role"].format_map(known)
        replication = self.pipeline.topics.replication_factor
        return TopicDefinition(
            name=topic_name or self.pipeline.topic(role),
            partitions=self._partitions(),
            replication_factor=replication,
            configs=self._configs(replication),
            owner=definition["owner"].format_map(known),
            role=role,
            schemas=_named(definition["schemas"], known),
            written_by=_named(definition["written_by"], known),
            read_by=_named(definition["read_by"], known),
            may_add_partitions=definition.get("may_add_partitions", False),
            place=place,
        )

    def _partitions(self) -> int:
        said = self.definition["partitions"]
        return (self.pipeline.topics.partitions or DEFAULT_PARTITIONS) if said == "pipeline" else int(said)

    def _configs(self, replication: int) -> dict[str, str]:
        retention = self.definition["retention"]
        if retention == "pipeline":
            said = self.pipeline.topics.retention_ms
            needed = max(2 * self.pipeline.look_back_ms, self.pipeline.window_reach_ms)
            retention = max(SHORTEST_RETENTION_MS, needed) if said is None else said
        configs = {name: str(value) for name, value in self.definition["config"].items()}
        return configs | {
            # Timestamps mean something here (event time, known-at); a broker must not overwrite them.
            "message.timestamp.type": "CreateTime",
            "min.insync.replicas": str(min(2, max(1, replication - 1))),
            "retention.ms": str(retention),
        }
