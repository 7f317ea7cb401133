"""Topics of a broker: list, describe, create, alter."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, base_settings, error_of, refused
from tidemill.runtime.topics import ExistingTopic, TopicDefinition

_LEADERS_WITHIN_S = 30.0
_GROUP_TIMEOUT_S = 3.0
_ASK_AGAIN_S = 0.1
_COORDINATOR_MOVES = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._TIMED_OUT,
    }
)

T = TypeVar("T")


class Admin:
    """Blocking calls; each raises TidemillError when the broker refuses or is away. Implements TopicAdmin."""

    def __init__(self, bootstrap_servers: str, options: Mapping[str, str] | None = None) -> None:
        self._client = AdminClient(base_settings(bootstrap_servers, options or {}) | {"log_level": 2})

    def topic_names(self, timeout_s: float = CALL_TIMEOUT_S) -> list[str]:
        """Every topic but Kafka's own. Also the cheapest way to see whether Kafka answers."""
        topics = self._metadata(timeout_s)
        return sorted(name for name in topics if not name.startswith("__"))

    def partition_counts(self, timeout_s: float = CALL_TIMEOUT_S) -> dict[str, int]:
        """Topics whose partitions all have a leader, with their number of partitions."""
        return {
            name: len(topic.partitions)
            for name, topic in self._metadata(timeout_s).items()
            if topic.error is None and all(partition.leader >= 0 for partition in topic.partitions.values())
        }

    def describe_topics(self, names: Sequence[str]) -> Mapping[str, ExistingTopic]:
        """Those of `names` that exist."""
        topics = self._metadata(CALL_TIMEOUT_S)
        present = [name for name in names if name in topics]
        if not present:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in present]
        answers = self._client.describe_configs(resources, request_timeout=CALL_TIMEOUT_S)
        configs = {
            resource.name: {entry.name: entry.value or "" for entry in _result("describing topics", answer).values()}
            for resource, answer in answers.items()
        }
        return {name: ExistingTopic(name, *_shape(topics[name]), configs[name]) for name in present}

    def create_topics(self, topics: Sequence[TopicDefinition]) -> None:
        """Create and return once every partition has a leader; a topic that exists already is left as it is."""
        new = [
            NewTopic(
                topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication_factor,
                config=dict(topic.configs),
            )
            for topic in topics
        ]
        if new:
            answers = self._client.create_topics(new, operation_timeout=CALL_TIMEOUT_S, request_timeout=CALL_TIMEOUT_S)
            for name, answer in answers.items():
                _result(f"creating topic {name}", answer, KafkaError.TOPIC_ALREADY_EXISTS)
            self._await_leaders({topic.name for topic in topics})

    def alter_configs(self, name: str, configs: Mapping[str, str]) -> None:
        """Set these; leave the topic's other settings alone."""
        changes = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in configs.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=changes)
        _all(f"altering topic {name}", self._client.incremental_alter_configs([resource]).values())

    def add_partitions(self, name: str, total: int) -> None:
        answers = self._client.create_partitions([NewPartitions(name, total)], request_timeout=CALL_TIMEOUT_S)
        _all(f"adding partitions to {name}", answers.values())

    def delete_topics(self, names: Sequence[str]) -> None:
        """Those that do not exist are no error."""
        for name, answer in self._client.delete_topics(list(names), request_timeout=CALL_TIMEOUT_S).items():
            _result(f"deleting topic {name}", answer, KafkaError.UNKNOWN_TOPIC_OR_PART)

    def group_members(self, group: str) -> int:
        """How many members a consumer group has at this moment; 0 for one that does not exist."""
        give_up = clock.monotonic() + CALL_TIMEOUT_S
        while True:
            answer = self._client.describe_consumer_groups([group], request_timeout=_GROUP_TIMEOUT_S)[group]
            try:
                return len(answer.result(timeout=_GROUP_TIMEOUT_S + 1).members)
            except KafkaException as exception:
                error = error_of(exception)
                if error.code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return 0
                # Its coordinator is not found yet, or still loads.
                if error.code() not in _COORDINATOR_MOVES or clock.monotonic() > give_up:
                    raise refused(f"describing group {group}", error) from None
                clock.pause(_ASK_AGAIN_S)

    def _metadata(self, timeout_s: float) -> dict[str, Any]:
        try:
            return dict(self._client.list_topics(timeout=timeout_s).topics)
        except KafkaException as exception:
            raise refused("asking for the list of topics", error_of(exception)) from None

    def _await_leaders(self, names: set[str]) -> None:
        give_up = clock.monotonic() + _LEADERS_WITHIN_S
        while missing := names - self.partition_counts().keys():
            if clock.monotonic() > give_up:
                raise TidemillError(
                    f"no leader within {_LEADERS_WITHIN_S:g} s for {', '.join(sorted(missing))}",
                    hint="are as many brokers up as the replication factor asks for?",
                )
            clock.pause(0.05)


def _shape(topic: Any) -> tuple[int, int]:
    return len(topic.partitions), min((len(partition.replicas) for partition in topic.partitions.values()), default=0)


def _all(doing: str, answers: Iterable[Future[Any]]) -> None:
    for answer in answers:
        _result(doing, answer)


def _result(doing: str, answer: Future[T], tolerated: int | None = None) -> T | Any:
    try:
        return answer.result(timeout=CALL_TIMEOUT_S + 5)
    except KafkaException as exception:
        error = error_of(exception)
        if error.code() == tolerated:
            return None
        raise refused(doing, error) from None
