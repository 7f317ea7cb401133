"""Published models, read from Kafka outside any group."""

from collections.abc import Mapping

from tidemill import clock
from tidemill.domain.model import Manifest, chunk_key
from tidemill.errors import TidemillError
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

POLL_S = 0.25
CHUNKS_TIMEOUT_S = 120.0
_IDLE_OPTIONS = {"fetch.wait.max.ms": "250"}
"""Nothing happens on the models topic for hours: ask the broker to hold an empty answer longer."""


class KafkaModelSource:
    """Follows the models topic from its start; after a failure it reconnects and goes on where it was."""

    def __init__(
        self, bootstrap_servers: str, models_topic: str, chunks_topic: str, options: Mapping[str, str]
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._models_topic = models_topic
        self._chunks_topic = chunks_topic
        self._options = {**_IDLE_OPTIONS, **options}
        self._positions: dict[Partition, int] = {}
        self._reader: TopicReader | None = None

    def poll(self) -> list[Record]:
        try:
            if self._reader is None:
                self._reader = TopicReader(
                    self._bootstrap_servers, [self._models_topic], options=self._options, start=self._positions
                )
            records = self._reader.poll(timeout_s=POLL_S)
        except TidemillError:
            self.close()
            raise
        for record in records:
            self._positions[(record.topic, record.partition)] = record.offset + 1
        return records

    def at_end(self) -> bool:
        return self._reader is not None and self._reader.at_end()

    def chunks(self, manifest: Manifest) -> dict[int, bytes]:
        """One pass over the topic: loading is rare, and holding every version in memory would cost more."""
        wanted = {chunk_key(manifest.name, manifest.version, index): index for index in range(manifest.chunks)}
        found: dict[int, bytes] = {}
        deadline = clock.monotonic() + CHUNKS_TIMEOUT_S
        reader = TopicReader(self._bootstrap_servers, [self._chunks_topic], options=self._options)
        try:
            while not reader.at_end():
                for record in reader.poll():
                    index = wanted.get(record.key or b"")
                    if index is None:
                        continue
                    if record.value is None:
                        found.pop(index, None)
                    else:
                        found[index] = record.value
                if clock.monotonic() > deadline:
                    raise TidemillError(f"reading {self._chunks_topic} took more than {CHUNKS_TIMEOUT_S:g} s")
        finally:
            reader.close()
        return found

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
