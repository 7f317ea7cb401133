"""Ingest's own metrics: its HTTP side. What passes through the loop is counted by the runtime."""

from collections.abc import Iterator
from contextlib import contextmanager

from tidemill import clock
from tidemill.runtime.metrics import Declared, Metrics

INGEST = (
    Declared(
        "tidemill_ingest_http_requests_total",
        "counter",
        "requests",
        "answered requests to /v1/events by source and status",
        "429: clients send faster than the broker takes it; 503: look at the brokers; 400: look at the producer",
        ("source", "status"),
    ),
    Declared(
        "tidemill_ingest_http_records_total",
        "counter",
        "records",
        "records accepted over HTTP and acknowledged by the broker",
        "flat while requests rise: they are refused, see the statuses",
        ("source",),
    ),
    Declared(
        "tidemill_ingest_http_in_flight_requests",
        "gauge",
        "requests",
        "requests being read, judged or acknowledged",
        "at the limit: answers are 429; raise TIDEMILL_HTTP_MAX_REQUESTS_IN_FLIGHT or add an instance",
    ),
    Declared(
        "tidemill_ingest_http_in_flight_bytes",
        "gauge",
        "bytes",
        "body bytes held by those requests",
        "at the limit: answers are 429; raise TIDEMILL_HTTP_MAX_BYTES_IN_FLIGHT or add an instance",
    ),
    Declared(
        "tidemill_ingest_http_acknowledge_seconds",
        "histogram",
        "seconds",
        "from handing a request's records to the client until the broker has acknowledged or failed",
        "p99 above 0.1 s: the brokers are slow or too few replicas are in sync",
    ),
)


class HttpMetrics:
    """The `HttpTelemetry` that Prometheus reads."""

    def __init__(self, metrics: Metrics) -> None:
        """`metrics` has `INGEST` declared."""
        self._metrics = metrics

    def answered(self, source: str, status: int) -> None:
        self._metrics.count("tidemill_ingest_http_requests_total", 1, source, str(status))

    def accepted(self, source: str, records: int) -> None:
        self._metrics.count("tidemill_ingest_http_records_total", records, source)

    def in_flight(self, requests: int, body_bytes: int) -> None:
        self._metrics.set("tidemill_ingest_http_in_flight_requests", requests)
        self._metrics.set("tidemill_ingest_http_in_flight_bytes", body_bytes)

    @contextmanager
    def acknowledging(self) -> Iterator[None]:
        began = clock.monotonic()
        try:
            yield
        finally:
            self._metrics.observe("tidemill_ingest_http_acknowledge_seconds", clock.monotonic() - began)
