"""Metrics are declared once, with what an operator does about them; nothing is emitted that is not declared.

`Declared` is also what each service's own metrics.py uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

COMMON_LABELS = ("pipeline", "service")


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: base unit in the name, `_total` for counters. `labels` come after `pipeline` and `service`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    action: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

RUNTIME = (
    Declared(
        "tidemill_runtime_records_total", "counter", "records", "input records in committed transactions",
        "flat while lag grows: look at the service's log and its transaction results", ("topic",),
    ),
    Declared(
        "tidemill_runtime_outputs_total", "counter", "records", "output records in committed transactions",
        "compare with records_total: far below it means records are dropped or joined away", ("topic",),
    ),
    Declared(
        "tidemill_runtime_dead_letters_total", "counter", "records", "records sent to the dead-letter topic",
        "`tidemill dlq ls` shows them with their reasons; fix the producer", ("code",),
    ),
    Declared(
        "tidemill_runtime_lag_records", "gauge", "records", "input records not yet processed, over owned partitions",
        "growing: start another instance, up to the number of partitions",
    ),
    Declared(
        "tidemill_runtime_transactions_total", "counter", "transactions", "transactions by result",
        "aborts outside rebalances: look for fencing and broker time-outs in the log", ("result",),
    ),
    Declared(
        "tidemill_runtime_transaction_seconds", "histogram", "seconds", "from begin to a definite commit",
        "p50 above 20 ms: the brokers are slow or retry.backoff.ms was overridden", buckets=SECONDS,
    ),
    Declared(
        "tidemill_runtime_event_time_seconds", "gauge", "seconds", "newest timestamp processed, seconds since 1970",
        "standing still while records arrive: one partition holds the others back",
    ),
    Declared(
        "tidemill_runtime_forced_releases_total", "counter", "releases",
        "batches released although a partition that was still being fetched might have held an earlier record",
        "frequent: raise max_idle_ms, or look at the brokers; a replay may then differ from the live run",
    ),
    Declared(
        "tidemill_runtime_buffered_records", "gauge", "records", "read but held back by time synchronisation",
        "near the limit for long: one input is far ahead of another",
    ),
    Declared(
        "tidemill_runtime_restore_seconds", "gauge", "seconds", "how long the last restore of state took",
        "long: more instances, or a lower cap on keys",
    ),
    Declared(
        "tidemill_runtime_ready", "gauge", "1", "1 while the service is ready for work",
        "0: `/readyz` says why",
    ),
)  # fmt: skip


class Metrics:
    """The declared metrics of one stage, with `pipeline` and `service` filled in. Thread-safe.

    Several stages in one process share a registry: `beside` is any one of the others. The `process_` metrics that all
    Prometheus clients have are there too (on Linux); `process_start_time_seconds` changes with each new worker.
    """

    def __init__(
        self, constant: Mapping[str, str], declared: Sequence[Declared] = (), beside: "Metrics | None" = None
    ) -> None:
        self.registry: CollectorRegistry = beside.registry if beside else CollectorRegistry()
        if beside is None:
            ProcessCollector(registry=self.registry)
        self._constant = tuple(constant[label] for label in COMMON_LABELS)
        self._counters: dict[str, Counter] = beside._counters if beside else {}
        self._gauges: dict[str, Gauge] = beside._gauges if beside else {}
        self._histograms: dict[str, Histogram] = beside._histograms if beside else {}
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        self.declare(RUNTIME)
        self.declare(declared)

    def declare(self, declared: Sequence[Declared]) -> None:
        """Add a service's own metrics."""
        known = (*self._counters, *self._gauges, *self._histograms)
        for metric in declared:
            if metric.name in known:
                continue  # by a stage beside this one: a name is declared once in the project
            labels = (*COMMON_LABELS, *metric.labels)
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.help, labels, registry=self.registry)
            elif metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(metric.name, metric.help, labels, registry=self.registry)
            else:
                buckets = metric.buckets or SECONDS
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.help, labels, registry=self.registry, buckets=buckets
                )

    def count(self, name: str, amount: float = 1, *labels: str) -> None:
        """Add `amount` to a counter; `labels` in the order of its declaration."""
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[(name, *labels)] = self._counters[name].labels(*self._constant, *labels)
        if amount:
            assert isinstance(child, Counter)
            child.inc(amount)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[(name, *labels)] = self._gauges[name].labels(*self._constant, *labels)
        assert isinstance(child, Gauge)
        child.set(value)

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Put one value into a histogram."""
        child = self._children.get((name, *labels))
        if child is None:
            child = self._children[(name, *labels)] = self._histograms[name].labels(*self._constant, *labels)
        assert isinstance(child, Histogram)
        child.observe(value)
