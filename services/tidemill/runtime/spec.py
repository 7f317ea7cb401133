"""What one stage is, apart from its code: its name, topics and limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tidemill.domain.durations import HOUR_MS
from tidemill.domain.pipeline import BreakerSpec
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.ports import Partition


class Replaying(Protocol):
    """For state that no changelog can hold (drift detectors): it is rebuilt by reading old input again, of all
    partitions at once, by one active instance."""

    def needs(self) -> frozenset[Partition]:
        """Every partition of the input. An instance that was given only some reads nothing until it has the others."""
        ...

    def replay_from(self, committed: Mapping[Partition, int]) -> Mapping[Partition, int]:
        """Called after `restore`, once this instance has all that it needs. Where to read from, at most the committed
        offset; a partition left out is not replayed. Up to the committed offsets the loop calls `add` and `flush` and
        throws the outputs away."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One stage of a pipeline. Its consumer group and transactional ids start with `{pipeline}-{name}`."""

    pipeline: str
    name: str
    inputs: tuple[InputTopic, ...]
    dlq_topic: str
    state_topic: str | None = None
    max_idle_ms: int = 200
    max_skew_ms: int = HOUR_MS
    """How far ahead of a partition that has just come to its end others may be released."""
    breaker: BreakerSpec | None = None
    gap_ms: float = 0.0
    """At least so long between transactions, for a stage whose output nobody waits for: a transaction costs the
    brokers about as much as a hundred records."""
    replay: Replaying | None = None
    predecessors: tuple[str, ...] = ()
    """Other consumer groups of the same input, whose work this stage goes on with once they have no member left."""
    replaceable: bool = False
    """Whether another group may be such a successor of this one, which then must not start any more."""

    @property
    def group(self) -> str:
        return f"{self.pipeline}-{self.name}"
