"""One run of the simulated producer: parts of the stream, sent by one schedule, and the account of what was sent.

Open loop: each record is due at a moment that does not depend on how fast Kafka takes it, and carries that moment in
the header `sent-ms` (wall clock, float ms as text), so that latencies count any delay of this process too.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill import clock
from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.runtime.service import OutRecord
from tidemill.scenarios.fraud.cache import default_cache_dir
from tidemill.scenarios.fraud.producerconfig import ProducerConfig
from tidemill.scenarios.fraud.simulator import EPOCH_MS, simulate
from tidemill.scenarios.fraud.stream import CHARGEBACKS, PAYMENTS, Manifest, PaymentStream, StreamSettings
from tidemill.scenarios.pacing import due_by_rate, due_by_stream_time

SENT_HEADER = "sent-ms"
_MOST_AT_ONCE = 2_000
_FLUSH_S = 60.0
_PROGRESS_S = 5.0
_FIRST_HORIZON_DAYS = 28  # of an endless stream; each following part doubles it


class Sender(Protocol):
    """What the producer needs of a Kafka client."""

    def send(self, record: OutRecord) -> None: ...

    def poll(self) -> int: ...

    def flush(self, timeout_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What was sent, all of it acknowledged."""

    payments: int
    chargebacks: int
    bad: dict[str, int]
    dead_letters: dict[str, int]
    duplicates: int
    stream_from_ms: int
    stream_until_ms: int
    wall_seconds: float
    complete: bool
    """False when it was stopped before the last day."""


def start_ms(config: ProducerConfig) -> int:
    """The stream time at which the stream of `config` begins."""
    return EPOCH_MS + config.start_day * DAY_MS


def parts(config: ProducerConfig, pipeline: Pipeline, from_ms: int) -> Iterator[PaymentStream]:
    """The stream of `config` from `from_ms` on: one part, or endlessly many, each simulated while the one before is
    sent. Chargebacks of payments before `from_ms` are part of it."""

    def part(begin_ms: int, until_day: int) -> PaymentStream:
        transactions = simulate(
            until_day,
            customers=config.customers,
            terminals=config.terminals,
            seed=config.seed,
            cache_dir=default_cache_dir(),
        )
        settings = StreamSettings(
            first_day=config.start_day,
            from_ms=begin_ms,
            until_day=until_day,
            seed=config.seed,
            bad_share=config.bad_share,
            allowed_lateness_ms=pipeline.features.allowed_lateness,
            max_record_bytes=pipeline.ingest.max_record_bytes,
        )
        return PaymentStream(transactions, settings)

    if not config.endless:
        yield part(from_ms, config.start_day + config.days)
        return
    begun = config.start_day + (from_ms - start_ms(config)) // DAY_MS
    until_day = begun + _FIRST_HORIZON_DAYS
    current = part(from_ms, until_day)
    with ThreadPoolExecutor(1) as pool:
        while True:
            ended, until_day = until_day, begun + 2 * (until_day - begun)
            following = pool.submit(part, EPOCH_MS + ended * DAY_MS, until_day)
            yield current
            current = following.result()


def source_topic(pipeline: Pipeline, kind: str) -> str:
    """The topic of the pipeline's first Kafka source of `kind`. Raises ConfigurationError if it has none."""
    for source in pipeline.ingest.sources:
        if source.kind == kind and source.topic is not None:
            return source.topic
    raise ConfigurationError(
        f"Pipeline {pipeline.name} has no source of kind {kind} with a topic, so nothing can be streamed to it.",
        hint="Give one of its sources a topic in the pipeline file.",
    )


def topics_of(pipeline: Pipeline) -> frozenset[str]:
    """The topics that a run writes."""
    return frozenset(source_topic(pipeline, kind) for kind in ("event", "label"))


class Run:
    """One run of the producer: sends parts in turn, by one schedule that spans them."""

    def __init__(
        self, config: ProducerConfig, pipeline: Pipeline, sender: Sender, stop: Event, report: Callable[[str], None]
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._from_ms = 0
        self._topics = {PAYMENTS: source_topic(pipeline, "event"), CHARGEBACKS: source_topic(pipeline, "label")}
        self._sender = sender
        self._stop = stop
        self._report = report
        self._started = 0.0
        self._started_wall_ms = 0
        self._next_report = 0.0

    def send(self, from_ms: int) -> Summary:
        """Send the stream from `from_ms` on. Blocks until everything is acknowledged, or until `stop` is set: then what
        was sent so far is."""
        self._started, self._started_wall_ms = clock.monotonic(), clock.wall_ms()
        self._next_report = self._started + _PROGRESS_S
        self._from_ms = until_ms = from_ms
        total: Manifest | None = None
        complete = True
        for stream in parts(self._config, self._pipeline, from_ms):
            sent = self._send_part(stream, total.payments if total else 0)
            held = stream.manifest(sent)
            total = held if total is None else total + held
            until_ms = int(stream.times[sent - 1]) if sent else until_ms
            if sent < len(stream) or self._stop.is_set():
                complete = sent == len(stream) and not self._config.endless
                break
        assert total is not None
        self._sender.flush(_FLUSH_S)
        return Summary(
            payments=total.payments,
            chargebacks=total.chargebacks,
            bad=total.bad,
            dead_letters=total.dead_letters,
            duplicates=total.duplicates,
            stream_from_ms=from_ms,
            stream_until_ms=until_ms,
            wall_seconds=round(clock.monotonic() - self._started, 3),
            complete=complete,
        )

    def _send_part(self, stream: PaymentStream, payments_before: int) -> int:
        """The number of records sent: all of them unless stopped."""
        config, stop = self._config, self._stop
        due = self._due(stream, payments_before)
        position, tick_s = 0, config.tick_ms / 1_000
        while position < len(stream) and not stop.is_set():
            elapsed = clock.monotonic() - self._started
            last = len(stream) if due is None else int(np.searchsorted(due, elapsed, side="right"))
            if last == position:
                assert due is not None
                stop.wait(max(tick_s, float(due[position]) - elapsed))
                continue
            last = min(last, position + _MOST_AT_ONCE)
            moments = [elapsed] * (last - position) if due is None else due[position:last].tolist()
            self._send_records(stream, position, last, moments)
            position = last
            self._progress(stream, position)
        return position

    def _due(self, stream: PaymentStream, payments_before: int) -> NDArray[np.float64] | None:
        config = self._config
        if config.rate is not None:
            return due_by_rate(stream.payments_before() + payments_before, config.rate)
        if config.days_per_minute == 0:
            return None
        return due_by_stream_time(stream.times, self._from_ms, config.days_per_minute)

    def _send_records(self, stream: PaymentStream, first: int, last: int, due_s: list[float]) -> None:
        send, topics, start_ms = self._sender.send, self._topics, self._started_wall_ms
        for (role, key, value, timestamp), due in zip(stream.encode(first, last), due_s, strict=True):
            header = (SENT_HEADER, b"%.3f" % (start_ms + due * 1_000))
            send(OutRecord(topics[role], key, value, timestamp, -1, (header,)))
        self._sender.poll()

    def _progress(self, stream: PaymentStream, position: int) -> None:
        now = clock.monotonic()
        if now < self._next_report:
            return
        self._next_report = now + _PROGRESS_S
        day = (int(stream.times[position - 1]) - EPOCH_MS) / DAY_MS
        self._report(f"day {day:.1f} after {now - self._started:.0f} s")
