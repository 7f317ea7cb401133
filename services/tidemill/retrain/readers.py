"""Opens topics for reading, outside any consumer group."""

from collections.abc import Mapping

from tidemill.retrain.outcomes import OpenReader, Reader
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.ports import Partition


def reader_opener(config: RuntimeConfig) -> OpenReader:
    """What opens a topic on the Kafka of `config`; each call blocks for the metadata and may raise TidemillError."""

    def open_reader(topic: str, start: Mapping[Partition, int] | None = None) -> Reader:
        servers, options = config.bootstrap_servers, config.kafka_options
        return TopicReader(servers, [topic], options=options, start="earliest" if start is None else start)

    return open_reader
