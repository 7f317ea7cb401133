"""The pipeline file as a tree of frozen models: the one description that every service reads its part of."""

from typing import Annotated, Literal

from pydantic import Field

from tidemill.domain.durations import DAY_MS, LONGEST_MS, DurationMs
from tidemill.domain.featurespec import FeaturesSpec, version_suffix
from tidemill.domain.section import MOST_RECORDS, FieldName, Name, Scalar, Section


class NumberField(Section):
    """A numeric event field that features read; it enters the window engine as round(value × scale)."""

    scale: int = Field(100, ge=1, le=1_000_000, description="fixed-point units per 1.0 (100 keeps cents)")
    min: float = Field(0.0, description="smallest value accepted; below it an event is a dead letter")
    max: float = Field(1_000_000.0, description="largest value accepted; above it an event is a dead letter")


class EventSpec(Section):
    """The canonical event: `v`, `id`, `event_time` (ms UTC), one string field per entity, and the user's fields."""

    schema_name: Name = Field(alias="schema", description="JSON Schema of the canonical event, by name")
    entities: tuple[FieldName, ...] = Field(min_length=1, description="entity fields; the first keys the topics")
    numbers: dict[FieldName, NumberField] = Field(default_factory=dict)
    categories: tuple[FieldName, ...] = Field((), description="further text fields that features read")

    @property
    def texts(self) -> tuple[str, ...]:
        """The text fields that features may read: entities and categories."""
        return (*self.entities, *self.categories)


class StreamSpec(Section):
    """A second stream, whose records features join: `v`, `stream` (its name), `id`, `event_time`, one string field per
    entity that it carries, and its numbers."""

    entities: tuple[FieldName, ...] = Field(
        min_length=1, description="entities of the event that every record carries; the primary one among them"
    )
    numbers: dict[FieldName, NumberField] = Field(default_factory=dict)
    max_lead: DurationMs = Field(
        DAY_MS,
        description="how far a record may be ahead of the events of its key; an event further behind, by more than "
        "allowed_lateness, is late",
    )


class LabelSpec(Section):
    """The truth about an event: `v`, `id` and `event_time` of the event, every entity, `known_at`, and `field`."""

    schema_name: Name = Field(alias="schema")
    field: FieldName = Field(description="the 0/1 field that holds the truth")


class TopicSettings(Section):
    """Overrides for all topics of this pipeline; what is not said comes from the topic definitions in schemas/."""

    partitions: int | None = Field(None, ge=1, le=1024)
    replication_factor: int = Field(1, ge=1, le=7)
    retention_ms: int | None = Field(
        None, ge=-1, le=10 * LONGEST_MS, description="-1 keeps everything; needed for historic event times"
    )


class SourceField(Section):
    """How one canonical field is made from a source's record: from → trim → cast → unit → default → range."""

    source: str | None = Field(None, alias="from", description="name in the source record; the same name if left out")
    cast: Literal["string", "integer", "number", "boolean", "timestamp"] | None = None
    trim: bool = Field(False, description="strip surrounding white space of a string before the cast")
    unit: Literal["ms", "s", "iso8601"] = Field("ms", description="for cast timestamp: what the source writes")
    multiply: float | None = Field(None, description="factor from the source's unit to the canonical one")
    default: Scalar | None = None
    min: float | None = None
    max: float | None = None
    out_of_range: Literal["reject", "clamp"] = "reject"


class SourceSpec(Section):
    """One place that events, labels or records of a second stream come from."""

    name: Name
    kind: Literal["event", "label", "stream"]
    stream: Name | None = Field(None, description="for kind stream: which of `streams` the records are of")
    topic: str | None = Field(None, pattern=r"^[a-z0-9-]{1,200}$", description="Kafka topic, or none for HTTP only")
    http: bool = Field(True, description="accept POST /v1/events/{name}")
    version_field: str | None = Field("v", description="field of the source record that holds its version")
    versions: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = (1,)
    fields: dict[FieldName, SourceField]


class BreakerSpec(Section):
    """Stops the service when too large a share of the last `window_records` records was invalid."""

    window_records: int = Field(2_000, ge=10, le=MOST_RECORDS)
    max_invalid_share: float = Field(0.5, gt=0, le=1)


class IngestSpec(Section):
    """What comes in and what is refused: sources, limits, and the breaker that stops a broken feed."""

    max_record_bytes: int = Field(65_536, ge=256, le=900_000)
    max_future: DurationMs = Field(300_000, description="a timestamp further ahead of the clock is refused")
    breaker: BreakerSpec = BreakerSpec()
    sources: tuple[SourceSpec, ...] = Field(min_length=1)


class OutcomesSpec(Section):
    """How predictions become training rows: joined with the label known `maturity` after the event."""

    maturity: DurationMs = 7 * DAY_MS
    missing_label: Literal["negative", "censored"] = "censored"
    conflicting_label: Literal["first", "last"] = "last"
    blocking_decisions: tuple[str, ...] = Field((), description="decisions that prevent the truth from showing")


class BatchingSpec(Section):
    """How events become micro-batches; each is padded to the smallest of `buckets` that holds it."""

    max_size: int = Field(256, ge=1, le=65_536)
    max_wait_ms: float = Field(0.0, ge=0, le=60_000, description="0: dispatch whenever the model is free")
    buckets: tuple[Annotated[int, Field(le=65_536)], ...] = (1, 8, 32, 128, 256)
    queue_limit: int = Field(8_192, ge=1, le=10_000_000, description="HTTP items waiting; beyond it the answer is 429")


class ModelSpec(Section):
    """The model, the class that trains it, and how it is fed."""

    name: Name
    trainer: str = Field(pattern=r"^[\w.]+:\w+$", description="`module:Class` of the Trainer")
    parameters: dict[str, Scalar] = Field(default_factory=dict)
    output: FieldName = "score"
    batching: BatchingSpec = BatchingSpec()
    max_bytes: int = Field(64_000_000, ge=1_000, lt=1 << 31, description="a protobuf, as ONNX is, holds 2 GiB at most")


class FallbackSpec(Section):
    """The rule that scores while no model is live: score = 1 where `field` > `above`, else 0."""

    field: FieldName
    above: float


class DecisionSpec(Section):
    """`positive` where the score ≥ threshold, else `negative`."""

    threshold: float = Field(0.5, ge=0, le=1)
    positive: str = "review"
    negative: str = "approve"
    fallback: FallbackSpec


class DriftSpec(Section):
    """What is watched for change, and how large a change must be to count."""

    enabled: bool = True
    sample_share: float = Field(1.0, gt=0, le=1, description="share of predictions watched, chosen by id hash")
    delta: float = Field(0.002, gt=0, lt=1, description="ADWIN's δ for the whole pipeline; divided by the features")
    min_effect: float = Field(0.1, ge=0, le=1, description="smallest shift of a scaled mean worth an alarm")
    prime_rows: int = Field(512, ge=0, le=5_000)
    generation_events: int = Field(2_000_000, ge=1_000, le=MOST_RECORDS)
    ignore: tuple[FieldName, ...] = Field((), description="calendar features and the like")
    warm_up: DurationMs = Field(0, description="a key's vectors are left out until it is this old; 0: watch all")
    statistics_every: DurationMs = DAY_MS
    min_average_precision: float | None = Field(None, ge=0, le=1, description="performance floor on matured outcomes")
    floor_window: DurationMs = 7 * DAY_MS
    min_positives: int = Field(30, ge=1, le=MOST_RECORDS)


class GateSpec(Section):
    """What a candidate must show before it may shadow."""

    min_positives: int = Field(50, ge=1, le=MOST_RECORDS)
    max_latency_ms_per_batch: float = Field(50.0, gt=0)
    parity_tolerance: float = Field(1e-4, gt=0)
    holdout: DurationMs = 2 * DAY_MS
    min_gain: float = Field(0.0, description="holdout average precision over what is live must exceed this")
    min_gain_after_drift: float = -0.01


class ShadowSpec(Section):
    """How a challenger is compared with the champion on the same matured events before it is promoted."""

    matured: DurationMs = Field(5 * DAY_MS, description="matured time in which champion and challenger are compared")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(2_000, ge=100, le=100_000, description="drawn at once, each with a value a day")


class RetrainSpec(Section):
    """When a new model is trained, from what, and what it may cost. All times are event time."""

    train_window: DurationMs = 7 * DAY_MS
    cooldown: DurationMs = Field(5 * DAY_MS, description="event time between the starts of two trainings")
    triggers: tuple[Literal["initial", "drift", "performance", "schedule", "manual"], ...] = (
        "initial",
        "drift",
        "performance",
        "manual",
    )
    schedule: DurationMs | None = None
    quorum: int = Field(
        1, ge=1, le=100_000, description="distinct detectors that must have alarmed before drift retrains"
    )
    budget_per_30d: int = Field(20, ge=1, le=100_000, description="trainings in any 30 days of event time")
    dry_run: bool = False
    seed: int = Field(7, ge=0, lt=1 << 31, description="of every draw: training adds the version's number to it")
    gates: GateSpec = GateSpec()
    shadow: ShadowSpec = ShadowSpec()


class Pipeline(Section):
    """One pipeline; its name prefixes every topic, consumer group and transactional id."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
    description: str = ""
    scenario: str | None = Field(None, description="simulator that `demo`, `up` and `simulate` use")
    event: EventSpec
    label: LabelSpec
    streams: dict[Name, StreamSpec] = Field(default_factory=dict, description="second streams that features join")
    topics: TopicSettings = TopicSettings()
    ingest: IngestSpec
    features: FeaturesSpec
    outcomes: OutcomesSpec = OutcomesSpec()
    model: ModelSpec
    decision: DecisionSpec
    drift: DriftSpec = DriftSpec()
    retrain: RetrainSpec = RetrainSpec()

    @property
    def primary_entity(self) -> str:
        return self.event.entities[0]

    def fields_of(self, stream: str | None) -> EventSpec:
        """What records hold: the event's declaration, or in its form that of `stream`."""
        if stream is None:
            return self.event
        spec = self.streams[stream]
        return self.event.model_copy(update={"entities": spec.entities, "numbers": spec.numbers, "categories": ()})

    def streams_of(self, index: int) -> tuple[str, ...]:
        """The streams that feature stage `index` joins, in the order of the file."""
        joined = {feature.stream for feature in self.features.stages[index].features}
        return tuple(name for name in self.streams if name in joined)

    def streams_into(self, index: int) -> tuple[str, ...]:
        """The streams whose records reach feature stage `index`: those that it or a later one joins."""
        joined = {name for at in range(index, len(self.features.stages)) for name in self.streams_of(at)}
        return tuple(name for name in self.streams if name in joined)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the vector's columns, stage by stage, in the order of the file."""
        return tuple(name for stage in self.features.stages for feature in stage.features for name in feature.columns)

    @property
    def look_back_ms(self) -> int:
        """How old, by event time, a record may be when a service last needs it: to join labels, or to train."""
        return self.outcomes.maturity + max(self.features.label_lateness, self.retrain.train_window)

    @property
    def window_reach_ms(self) -> int:
        """How far before an event the longest window of its features reaches, with delay and lateness: what a backfill
        must find."""
        features = [feature for stage in self.features.stages for feature in stage.features]
        return max(feature.look_back for feature in features) + self.features.allowed_lateness

    def topic(self, role: str) -> str:
        """`events` → `fraud-events`; the roles are those of schemas/tidemill_schemas/topics/*.yaml.

        Topics are `[a-z0-9-]`, entities may hold an underscore: `by-card_holder` → `fraud-by-card-holder`.
        """
        return f"{self.name}-{role.replace('_', '-')}"

    def stream_topic(self, name: str) -> str:
        """`limits` → `fraud-stream-limits`."""
        return self.topic(f"stream-{name}")

    def first_topics(self) -> dict[str, str]:
        """Role → topic of what the first feature stage reads. At equal timestamps the first goes first: so an event
        sees every joined record of its own time that is there."""
        roles = [*(f"stream-{name}" for name in self.streams_into(0)), "events", "labels"]
        return {role: self.topic(role) for role in roles}

    def stage_output_role(self, index: int) -> str:
        """The topic role that feature stage `index` writes: the next stage's input, or `features` from the last."""
        return self.stage_input_role(index + 1) if index + 1 < len(self.features.stages) else "features"

    def stage_input_role(self, index: int) -> str:
        """The topic role that feature stage `index` reads events from."""
        features = self.features
        return "events" if index == 0 else f"by-{features.stages[index].entity}{features.suffix}"

    def stage_state_role(self, index: int) -> str:
        """The topic role of the changelog of feature stage `index`."""
        return f"{self.features.stages[index].entity}-state{self.features.suffix}"

    def stage_service(self, index: int, version: int | None = None) -> str:
        """The service name of feature stage `index`, of this feature-set version or of another one."""
        suffix = self.features.suffix if version is None else version_suffix(version)
        return f"features-{self.features.stages[index].entity}{suffix}"
