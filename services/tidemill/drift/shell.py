"""Glue between the loop and the monitor: decodes, samples, finds where a generation ends, writes drift records.

The loop calls `restore` for each partition, then `replay_from`, then `add` and `flush` from the generation's start on;
until every partition is back at its committed offset it throws the outputs away.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from tidemill.domain.pipeline import Pipeline
from tidemill.drift import metrics as declared
from tidemill.drift.changelog import Beginning, Changelog, key_entry
from tidemill.drift.core.activity import Activity, KeyAges
from tidemill.drift.core.detectors import DetectorFactory
from tidemill.drift.core.features import Champion
from tidemill.drift.core.monitor import Monitor, Stretch
from tidemill.drift.core.records import Alarm, Drift, Version, decode_outcome, decode_prediction, encode_drift
from tidemill.drift.core.sampling import Sampler
from tidemill.drift.journal import Journal, Place, record_key
from tidemill.errors import RecordError
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, StateEntry

SETTLE_RECORDS = 256
SETTLE_WITHIN_S = 1.0
"""Records wait for company, since a look costs half a millisecond however few there are. That their offsets are
committed meanwhile is safe: a restart reads the whole generation again, and writes what was not written."""

Champions = Callable[[int], Champion]
"""A model version → what its manifest says. Raises a TidemillError where there is no valid manifest."""


class _Running:
    """Everything that exists only between a restore and the next drop."""

    def __init__(self, monitor: Monitor, journal: Journal, activity: Activity, ages: KeyAges) -> None:
        self.monitor = monitor
        self.journal = journal
        self.activity = activity
        self.ages = ages
        self.stretch = Stretch()
        self.replaying = False
        self.settle_at: float | None = None
        self.read = 0
        self.predictions = 0
        self.drift: list[Drift] = []
        self.dead: list[DeadLetter] = []
        self.keys: list[StateEntry] = []


class DriftService:
    """The drift stage: one active instance over every partition of predictions and outcomes."""

    def __init__(
        self,
        pipeline: Pipeline,
        detectors: DetectorFactory,
        champions: Champions,
        partitions: int,
        metrics: Metrics,
    ) -> None:
        """`partitions` is how many each of the two inputs has."""
        self._pipeline = pipeline
        self._detectors = detectors
        self._champions = champions
        self._metrics = metrics
        self._predictions = pipeline.topic("predictions")
        topics = (self._predictions, pipeline.topic("outcomes"))
        self._needs = frozenset((topic, number) for topic in topics for number in range(partitions))
        self._drift = pipeline.topic("drift")
        self._sampler = Sampler(pipeline.drift.sample_share, seed=pipeline.retrain.seed)
        self._changelog = Changelog()
        self._running: _Running | None = None
        self._flushed: list[StateEntry] = []

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """See the protocol. Nothing runs until `replay_from` is called."""
        self._running = None
        self._changelog.restore(partition, entries)

    def drop(self, partitions: Iterable[int]) -> None:
        """See the protocol. Without one partition the detectors of all are worth nothing."""
        self._running = None
        for partition in partitions:
            self._changelog.forget(partition)

    def needs(self) -> frozenset[Place]:
        """See the protocol."""
        return self._needs

    def replay_from(self, committed: Mapping[Place, int]) -> dict[Place, int]:
        """Start at the beginning of the committed generation: the offsets to read from, at most the committed ones."""
        beginning = self._changelog.beginning()
        snapshot = beginning.snapshot
        starts = self._changelog.starts(snapshot.generation)
        journal = Journal(beginning, starts, committed, self._changelog.emitted())
        ages = KeyAges(self._pipeline.drift.warm_up, self._changelog.keys())
        monitor = Monitor(self._pipeline, self._detectors, snapshot, self._champion(snapshot.version))
        self._running = _Running(monitor, journal, Activity(snapshot.version, beginning.versions), ages)
        self._flushed = []
        return journal.resume_at

    def add(self, records: Sequence[Record], now: float) -> None:
        """See the protocol."""
        running = self._running
        if running is None:
            raise RuntimeError("drift was given records before its state")
        running.replaying = bool(records) and running.journal.replayed(records[0])  # the loop never mixes old and new
        for record in records:
            running.journal.reads(record)
            running.read += 1
            try:
                if record.topic == self._predictions:
                    self._take_prediction(running, record)
                else:
                    running.stretch.outcomes.append(decode_outcome(record.value))
                    running.stretch.outcome_positions.append(running.read)
            except RecordError as error:
                if not running.journal.replayed(record):
                    running.dead.append(DeadLetter(record, error.code, error.message))
        if running.settle_at is None and records:
            running.settle_at = now + SETTLE_WITHIN_S

    def wake_at(self) -> float | None:
        return None if self._running is None else self._running.settle_at

    def flush(self, now: float) -> Output:
        """See the protocol. Writes nothing while the generation is being replayed."""
        running = self._running
        if running is None:
            return Output()
        due = running.settle_at is not None and now >= running.settle_at
        if due or len(running.stretch) >= SETTLE_RECORDS:
            self._settle(running)
            self._report(running.monitor)
        if running.replaying:
            return Output()
        output = Output(dead=running.dead)
        for record in running.drift:
            key = record_key(record)
            output.records.append(OutRecord(self._drift, key, encode_drift(record), record.at))
            if isinstance(record, Alarm):
                self._metrics.count(declared.ALARMS, 1, record.policy, record.detector)
        output.state = self._flushed = [*running.journal.entries(), *running.keys]
        running.drift, running.dead, running.keys = [], [], []
        return output

    def committed(self) -> None:
        self._changelog.commit(self._flushed)
        self._flushed = []

    def close(self) -> None:
        self._running = None

    def _take_prediction(self, running: _Running, record: Record) -> None:
        limit = self._pipeline.drift.generation_events
        if running.predictions == limit:
            self._begin(running, record, f"{limit} predictions were seen")
        running.predictions += 1
        settled = self._settled(running, record)
        if record.value is None or not self._sampler.takes_record(record.value):
            return
        prediction = decode_prediction(record.value)
        if running.activity.sees(record.partition, prediction.model_version):
            version = prediction.model_version
            what = "no model serves" if version is None else f"version {version} serves"
            self._begin(running, record, f"{what} from here on")
            running.predictions = 1
        if settled:
            running.stretch.predictions.append(prediction)
            running.stretch.prediction_positions.append(running.read)

    def _settled(self, running: _Running, record: Record) -> bool:
        """The windows of the record's key are full."""
        if self._pipeline.drift.warm_up == 0 or record.key is None:
            return True
        settled, first = running.ages.sees(record.key, record.timestamp)
        if first:
            running.keys.append(key_entry(record.partition, record.key, record.timestamp))
        return settled

    def _begin(self, running: _Running, first: Record, reason: str) -> None:
        self._settle(running)
        champion = self._champion(running.activity.live)
        generation = running.monitor.begin(champion, first.timestamp, reason)
        running.predictions = 0
        running.journal.begin(Beginning(running.monitor.snapshot(), dict(running.activity.partitions)), first)
        running.drift.extend(running.journal.unwritten([generation]))

    def _settle(self, running: _Running) -> None:
        """Let the monitor take what was read."""
        stretch, running.stretch = running.stretch, Stretch()
        running.settle_at = None
        running.drift.extend(running.journal.unwritten(running.monitor.take(stretch)))
        if not running.replaying:
            self._metrics.count(declared.WATCHED, len(stretch.predictions))

    def _champion(self, version: Version) -> Champion | None:
        return None if version is None else self._champions(version)

    def _report(self, monitor: Monitor) -> None:
        self._metrics.set(declared.GENERATION, monitor.generation)
        for detector, mean in monitor.means():
            if mean is not None:
                self._metrics.set(declared.MEAN, mean, detector)
        if monitor.performance is not None and monitor.performance.average_precision is not None:
            self._metrics.set(declared.AVERAGE_PRECISION, monitor.performance.average_precision)
            self._metrics.set(declared.WATERMARK, monitor.performance.to_ms / 1_000)
