"""A broker's topics in memory, for commands that change them."""

from collections.abc import Mapping, Sequence

from tidemill.runtime.topics import ExistingTopic, TopicDefinition


class MemoryTopics:
    """Implements TopicAdmin; `calls` are the names of the topics that each call changed."""

    def __init__(self, *existing: ExistingTopic) -> None:
        self.topics = {topic.name: topic for topic in existing}
        self.calls: list[tuple[str, str]] = []

    def describe_topics(self, names: Sequence[str]) -> Mapping[str, ExistingTopic]:
        return {name: self.topics[name] for name in names if name in self.topics}

    def create_topics(self, topics: Sequence[TopicDefinition]) -> None:
        for topic in topics:
            self.calls.append(("create", topic.name))
            self.topics[topic.name] = as_existing(topic)

    def alter_configs(self, name: str, configs: Mapping[str, str]) -> None:
        self.calls.append(("alter", name))
        topic = self.topics[name]
        self.topics[name] = topic._replace(configs={**topic.configs, **configs})

    def add_partitions(self, name: str, total: int) -> None:
        self.calls.append(("extend", name))
        self.topics[name] = self.topics[name]._replace(partitions=total)


def as_existing(topic: TopicDefinition) -> ExistingTopic:
    """A broker also reports settings that nobody planned."""
    configs = {"compression.type": "producer", **topic.configs}
    return ExistingTopic(topic.name, topic.partitions, topic.replication_factor, configs)
