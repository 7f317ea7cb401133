"""Reading a stage's committed state from its changelog, beside the running stage: no group, nothing written."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.config import OUTCOMES_STAGE
from tidemill.features.core.holdings import Holdings, JoinHoldings, KeySummary, Row, WindowHoldings
from tidemill.features.process import service_spec
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

_POLL_RECORDS = 5_000
_POLL_S = 0.2


class Reader(Protocol):
    """The part of TopicReader that is needed here."""

    partitions: tuple[Partition, ...]

    def poll(self, max_records: int = ..., timeout_s: float = ...) -> list[Record]: ...
    def at_end(self) -> bool: ...
    def end_offsets(self) -> dict[Partition, int]: ...
    def has_passed(self, ends: Mapping[Partition, int]) -> bool: ...
    def close(self) -> None: ...


class OpenReader(Protocol):
    """Opens the committed records of a topic from its beginning; of one partition, or of all where `only` is None."""

    def __call__(self, topic: str, only: int | None) -> Reader: ...


@dataclass(frozen=True, slots=True)
class StateView:
    """The state of one stage. Every call reads the changelog as it stands then, a partition at a time: memory is what
    the largest partition holds. `say` gets one line a partition. Calls raise StateCorrupt where the pipeline file is
    not the one that wrote the state."""

    pipeline: str
    topic: str
    holdings: Holdings
    open_reader: OpenReader
    say: Callable[[str], None]

    def summaries(self) -> Iterator[tuple[int, KeySummary]]:
        """Every key with the number of its partition."""
        for partition, entries in self._partitions():
            for summary in self.holdings.summaries(entries):
                yield partition, summary

    def rows(self, key: str | None = None) -> Iterator[tuple[int, Row]]:
        """Every row, or those of one key, with the number of their partition."""
        for partition, entries in self._partitions():
            for row in self.holdings.rows(entries, key):
                yield partition, row

    def _partitions(self) -> Iterator[tuple[int, dict[bytes, bytes]]]:
        with closing(self.open_reader(self.topic, None)) as reader:
            numbers = [number for _, number in reader.partitions]
        for done, number in enumerate(numbers, 1):
            with closing(self.open_reader(self.topic, number)) as reader:
                entries = latest_values(reader)
            self.say(f"{self.topic}: partition {done} of {len(numbers)}, {len(entries):,} records")
            yield number, entries


def state_view(pipeline: Pipeline, stage: str, open_reader: OpenReader, say: Callable[[str], None]) -> StateView:
    """Raises ConfigurationError for a stage that the pipeline does not have, or that writes no changelog."""
    topic = service_spec(pipeline, stage).state_topic
    if topic is None:
        raise ConfigurationError(
            f"the stage {stage} of {pipeline.name} keeps its state in memory only, and no changelog of it",
            hint="With features.state: kafka in the pipeline file it can be read.",
        )
    if stage == OUTCOMES_STAGE:
        return StateView(pipeline.name, topic, JoinHoldings(pipeline), open_reader, say)
    index = [one.entity for one in pipeline.features.stages].index(stage)
    return StateView(pipeline.name, topic, WindowHoldings(pipeline, index), open_reader, say)


def latest_values(reader: Reader) -> dict[bytes, bytes]:
    """Latest value of each key up to where the partition ended at the call; deleted keys are left out."""
    ends = reader.end_offsets()
    latest: dict[bytes, bytes] = {}
    while not (reader.at_end() or reader.has_passed(ends)):
        for record in reader.poll(_POLL_RECORDS, _POLL_S):
            if record.value is None:
                latest.pop(record.key or b"", None)
            else:
                latest[record.key or b""] = record.value
    return latest
