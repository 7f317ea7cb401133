"""All that retrain knows, as a fold of the decisions topic and the drift topic.

Folding a record twice, or a copy of it, changes nothing: decisions count by id (the first wins), alarms by id, and
watermarks only rise. Every time here is event time, the watermark of outcomes.
"""

from dataclasses import dataclass, field

from tidemill.retrain.core.records import Alarm, Decision, DriftRecord, Statistics

_CONCLUSIONS = frozenset({"refused", "promoted", "rejected"})


@dataclass(frozen=True, slots=True)
class SeenAlarm:
    """An alarm and the offset of its first record in the drift topic (one partition, so offsets order alarms)."""

    alarm: Alarm
    offset: int


@dataclass(slots=True)
class Situation:
    """The state of the learning loop: idle, training, or with a candidate in shadow; and what was alarmed since."""

    decisions: dict[str, Decision] = field(default_factory=dict)
    alarms: dict[str, SeenAlarm] = field(default_factory=dict)
    statistics: Statistics | None = None
    stream_start: int | None = None
    """Event time of the oldest outcome there is."""
    drift_offset: int = -1
    known_version: int = 0
    champion: int | None = None
    promotion: Decision | None = None
    """The decision that made `champion` serve."""
    in_progress: Decision | None = None
    """The `retrain` decision that has no conclusion yet."""
    candidate: Decision | None = None
    """The `candidate` decision of the training in progress, once it is in shadow."""
    trainings: list[Decision] = field(default_factory=list)
    """Every decision that started a training, or would have (dry run), in order."""

    @property
    def watermark(self) -> int | None:
        """Outcomes of events before this have matured."""
        return None if self.statistics is None else self.statistics.watermark

    @property
    def at(self) -> int:
        """The time that a decision taken now carries: the watermark, or 0 before the first."""
        return self.watermark or 0

    @property
    def phase(self) -> str:
        if self.in_progress is None:
            return "idle"
        return "training" if self.candidate is None else "shadow"

    @property
    def next_version(self) -> int:
        return self.known_version + 1

    def fold_drift(self, record: DriftRecord, offset: int) -> None:
        self.drift_offset = max(self.drift_offset, offset)
        if isinstance(record, Statistics):
            if self.watermark is None or record.watermark > self.watermark:
                self.statistics = record
        elif isinstance(record, Alarm):
            self.alarms.setdefault(record.id, SeenAlarm(record, offset))

    def fold_decision(self, decision: Decision) -> bool:
        """True if this is the first record of its id; later ones are void."""
        if decision.id in self.decisions:
            return False
        self.decisions[decision.id] = decision
        self.known_version = max(self.known_version, decision.model_version or 0)
        if decision.kind == "retrain":
            self.in_progress, self.candidate = decision, None
        if decision.kind == "retrain" or decision.details.get("dry_run"):
            self.trainings.append(decision)
        if decision.kind == "candidate":
            self.candidate = decision
        if decision.kind in _CONCLUSIONS:
            self.in_progress = self.candidate = None
        if decision.kind in ("promoted", "rollback"):
            self.champion, self.promotion = decision.model_version, decision
        return True

    def alarms_on_champion(self) -> list[SeenAlarm]:
        """Alarms that name the version which serves now, oldest first; those on earlier versions are void."""
        if self.champion is None:
            return []
        named = [seen for seen in self.alarms.values() if seen.alarm.model_version == self.champion]
        return sorted(named, key=lambda seen: seen.offset)
