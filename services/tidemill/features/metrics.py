"""The feature processor's own metrics. Dead letters (late, unmatched, unreadable) are counted by the runtime."""

from tidemill.runtime.metrics import Declared, Metrics

FEATURES = (
    Declared(
        "tidemill_features_events_total",
        "counter",
        "records",
        "events that got features",
        "flat while the runtime's records rise: look at duplicates and dead letters",
    ),
    Declared(
        "tidemill_features_labels_total",
        "counter",
        "records",
        "labels that entered the windows of their key",
        "flat: labels no longer arrive, or all are unmatched (see the dead letters)",
    ),
    Declared(
        "tidemill_features_duplicates_total",
        "counter",
        "records",
        "records dropped because they were seen before, by kind (event, label)",
        "rising: a producer resends; harmless, but find out why",
        ("kind",),
    ),
    Declared(
        "tidemill_features_state_records_total",
        "counter",
        "records",
        "changelog records written",
        "more than one an event: transactions are very small, or keys very many",
    ),
    Declared(
        "tidemill_features_state_keys",
        "gauge",
        "keys",
        "keys held in memory over all partitions",
        "growing without end: keys are not reused; shorten the windows or add instances",
    ),
    Declared(
        "tidemill_features_evicted_keys_total",
        "counter",
        "keys",
        "keys forgotten because a cap of features.state_limits was met",
        "rising: windows of keys that come back are too small; raise the limit or add partitions and instances",
    ),
    Declared(
        "tidemill_features_state_bytes",
        "gauge",
        "bytes",
        "memory of the rows held",
        "near the container's limit: add instances",
    ),
)

OUTCOMES = (
    Declared(
        "tidemill_outcomes_written_total",
        "counter",
        "records",
        "outcomes written, by label status",
        "censored rising: labels come later than the maturity, or not at all",
        ("status",),
    ),
    Declared(
        "tidemill_outcomes_labels_total",
        "counter",
        "records",
        "labels read, by what became of them (kept, replaced, first_kept, duplicate, late)",
        "late: raise outcomes.maturity; replaced: the source contradicts itself",
        ("result",),
    ),
    Declared(
        "tidemill_outcomes_expired_total",
        "counter",
        "records",
        "labels and shadow scores given up because no prediction of theirs came (label, shadow)",
        "rising: predictions are missing, or labels name events that were refused",
        ("kind",),
    ),
    Declared(
        "tidemill_outcomes_state_labels",
        "gauge",
        "records",
        "labels held until their prediction has matured",
        "growing without end: predictions stand still",
    ),
)


class StageMetrics:
    """What a keyed stage reports, once a transaction."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `FEATURES` declared."""
        self._metrics = metrics

    def seen(self, *, events: int, labels: int, duplicate_events: int, duplicate_labels: int) -> None:
        self._metrics.count("tidemill_features_events_total", events)
        self._metrics.count("tidemill_features_labels_total", labels)
        self._metrics.count("tidemill_features_duplicates_total", duplicate_events, "event")
        self._metrics.count("tidemill_features_duplicates_total", duplicate_labels, "label")

    def state(self, *, written: int, keys: int, evicted: int, memory_bytes: int) -> None:
        self._metrics.count("tidemill_features_state_records_total", written)
        self._metrics.count("tidemill_features_evicted_keys_total", evicted)
        self._metrics.set("tidemill_features_state_keys", keys)
        self._metrics.set("tidemill_features_state_bytes", memory_bytes)


class JoinMetrics:
    """What the join reports, once a transaction."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `OUTCOMES` declared."""
        self._metrics = metrics

    def written(self, status: str, count: int) -> None:
        self._metrics.count("tidemill_outcomes_written_total", count, status)

    def labels(self, result: str, count: int) -> None:
        self._metrics.count("tidemill_outcomes_labels_total", count, result)

    def expired(self, kind: str, count: int) -> None:
        self._metrics.count("tidemill_outcomes_expired_total", count, kind)

    def held(self, labels: int) -> None:
        self._metrics.set("tidemill_outcomes_state_labels", labels)
