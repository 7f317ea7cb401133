"""What the models topic says has been published: the memory of how far an interrupted publication came."""

from dataclasses import dataclass, field

from tidemill.domain.model import Activation, Manifest


@dataclass(slots=True)
class Catalogue:
    """A fold of the verified records of the models topic."""

    manifests: dict[int, Manifest] = field(default_factory=dict)
    activation: Activation | None = None

    def fold(self, record: Manifest | Activation) -> None:
        if isinstance(record, Manifest):
            self.manifests[record.version] = record
        elif self.activation is None or record.epoch > self.activation.epoch:
            self.activation = record

    @property
    def newest_version(self) -> int:
        return max(self.manifests, default=0)

    @property
    def next_epoch(self) -> int:
        return 1 if self.activation is None else self.activation.epoch + 1

    def announced(self, decision_id: str) -> bool:
        """Whether the newest activation was already written for this decision."""
        return self.activation is not None and self.activation.decision == decision_id
