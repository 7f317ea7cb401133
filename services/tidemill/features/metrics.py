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
        "tidemill_features_joined_total",
        "counter",
        "records",
        "records of second streams that entered the windows of their key",
        "flat where a stream is joined: its source is quiet, or its records are dead letters",
    ),
    Declared(
        "tidemill_features_duplicates_total",
        "counter",
        "records",
        "records dropped because they were seen before, by kind (event, label, stream)",
        "rising: a producer resends; harmless, but find out why",
        ("kind",),
    ),
    Declared(
        "tidemill_features_answered_total",
        "counter",
        "records",
        "records read again for their rows only, because the replaced feature-set version has answered them",
        "rising for long after a change of version: prepare the next one with `tidemill features prepare`",
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

SUMMARIES = (
    Declared(
        "tidemill_features_summaries_total",
        "counter",
        "records",
        "summaries written, by revision (first, correction)",
        "no first ones while events come: the watermark stands still (a partition is silent and idle_timeout is 0)",
        ("revision",),
    ),
    Declared(
        "tidemill_features_summaries_missed_total",
        "counter",
        "records",
        "times an accepted event came behind the closing of its window and was left out of the summary",
        "rising: raise features.allowed_lateness, or let the summary correct (on_late)",
    ),
    Declared(
        "tidemill_features_windows",
        "gauge",
        "records",
        "windows of summaries held: open ones, and closed ones that may be corrected",
        "growing without end: the watermark stands still",
    ),
    Declared(
        "tidemill_features_watermarks_total",
        "counter",
        "records",
        "watermark records written, by kind (idle: for a silent partition; handed_on: to the next stage)",
        "idle rising with events coming: partitions without keys, or idle_timeout is shorter than usual pauses",
        ("kind",),
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


VERIFICATION = (
    Declared(
        "tidemill_features_verified_total",
        "counter",
        "records",
        "served vectors computed again by `tidemill features verify --every`",
        "flat: nothing new is served, or the process no longer looks",
    ),
    Declared(
        "tidemill_features_differing_total",
        "counter",
        "records",
        "of those, vectors with a value that could not be repeated to the bit",
        "any: stop trusting what is served; `tidemill features verify` lists the values",
    ),
    Declared(
        "tidemill_features_unrepeatable_total",
        "counter",
        "records",
        "served vectors that look back to what has expired from the topics, and so were not computed again",
        "rising: raise the retention of events, labels and streams above the longest window",
    ),
    Declared(
        "tidemill_features_failed_looks_total",
        "counter",
        "attempts",
        "looks for served vectors that ended in an error",
        "rising: nothing is verified; the log says why",
    ),
)


class VerificationMetrics:
    """What repeated verification reports, once a look."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `VERIFICATION` declared."""
        self._metrics = metrics

    def looked(self, *, verified: int, differing: int, unrepeatable: int) -> None:
        self._metrics.count("tidemill_features_verified_total", verified)
        self._metrics.count("tidemill_features_differing_total", differing)
        self._metrics.count("tidemill_features_unrepeatable_total", unrepeatable)

    def failed(self) -> None:
        self._metrics.count("tidemill_features_failed_looks_total", 1)


class StageMetrics:
    """What a keyed stage reports, once a transaction."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `FEATURES` declared."""
        self._metrics = metrics

    def seen(
        self,
        *,
        events: int,
        labels: int,
        joined: int,
        duplicate_events: int,
        duplicate_labels: int,
        duplicate_joined: int,
    ) -> None:
        self._metrics.count("tidemill_features_events_total", events)
        self._metrics.count("tidemill_features_labels_total", labels)
        self._metrics.count("tidemill_features_duplicates_total", duplicate_events, "event")
        self._metrics.count("tidemill_features_duplicates_total", duplicate_labels, "label")
        if joined or duplicate_joined:
            self._metrics.count("tidemill_features_joined_total", joined)
            self._metrics.count("tidemill_features_duplicates_total", duplicate_joined, "stream")

    def answered(self, records: int) -> None:
        self._metrics.count("tidemill_features_answered_total", records)

    def state(self, *, written: int, keys: int, evicted: int, memory_bytes: int) -> None:
        self._metrics.count("tidemill_features_state_records_total", written)
        self._metrics.count("tidemill_features_evicted_keys_total", evicted)
        self._metrics.set("tidemill_features_state_keys", keys)
        self._metrics.set("tidemill_features_state_bytes", memory_bytes)


class SummaryMetrics:
    """What the summaries of a stage report, once a transaction."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `SUMMARIES` declared."""
        self._metrics = metrics

    def written(self, *, first: int, corrections: int, missed: int, windows: int) -> None:
        self._metrics.count("tidemill_features_summaries_total", first, "first")
        self._metrics.count("tidemill_features_summaries_total", corrections, "correction")
        self._metrics.count("tidemill_features_summaries_missed_total", missed)
        self._metrics.set("tidemill_features_windows", windows)

    def watermarks(self, *, idle: int, handed_on: int) -> None:
        self._metrics.count("tidemill_features_watermarks_total", idle, "idle")
        self._metrics.count("tidemill_features_watermarks_total", handed_on, "handed_on")


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
