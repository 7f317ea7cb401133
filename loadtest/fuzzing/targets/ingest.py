"""Raw records of producers, and HTTP bodies."""

import asyncio
from collections.abc import Sequence
from functools import cache

import orjson
from starlette.applications import Starlette

from fuzzing import pipelines
from fuzzing.target import Decode, Target, example_values, stateless
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.ingest.config import IngestConfig
from tidemill.ingest.core.bodies import Form, documents_of, form_of
from tidemill.ingest.core.intake import Accepted, Intake
from tidemill.ingest.http import EventsEndpoint
from tidemill.ingest.metrics import INGEST, HttpMetrics
from tidemill.ingest.sources import open_intakes
from tidemill.runtime.metrics import Metrics

NOW_MS = 1_700_000_000_000
_PAYMENTS, _CHARGEBACKS = example_values("fraud-raw-payment"), example_values("fraud-raw-chargeback")
_LIMIT = b'{"v":1,"change":"l-1","at":1522540831.25,"card":" c-1 ","limit":2500.5}'
_LOGIN = b'{"v":1,"id":"g-1","at":"2018-04-01T00:00:31+02:00","customer":"c-1","terminal":"t-1"}'


def _intake(pipeline: Pipeline, topic: str) -> Intake:
    return open_intakes(pipeline, refuse_duplicate_keys=True).by_topic[topic]


def _taking(pipeline: Pipeline, topic: str, seeds: Sequence[bytes]) -> Target:
    intake = _intake(pipeline, topic)

    def take(data: bytes) -> object:
        return _checked(intake.take(data, NOW_MS))

    return stateless(seeds, take, RecordError)


def _checked(accepted: Accepted) -> Accepted:
    """What is accepted can be read, has a key, and a time that Kafka takes."""
    orjson.loads(accepted.value)
    if not accepted.key or not 0 <= accepted.timestamp < 1 << 53:
        raise AssertionError(f"accepted without a key or a time: {accepted}")
    return accepted


def payments() -> Target:
    return _taking(pipelines.fraud(), "fraud-raw-payments", _PAYMENTS)


def labels() -> Target:
    return _taking(pipelines.fraud(), "fraud-raw-chargebacks", _CHARGEBACKS)


def limits() -> Target:
    return _taking(pipelines.joined(), "fraud-raw-limits", [_LIMIT])


def logins() -> Target:
    return _taking(pipelines.joined(), "fraud-raw-logins", [_LOGIN])


def _bodies(form: Form, seeds: Sequence[bytes]) -> Target:
    intake = _intake(pipelines.fraud(), "fraud-raw-payments")

    def read(data: bytes) -> object:
        found = []
        for document in documents_of(intake.decoder, data, form):
            if not isinstance(document, RecordError):
                inspected = intake.inspect(document, NOW_MS)
                found.append(_checked(inspected) if isinstance(inspected, Accepted) else inspected)
        return found

    return stateless(seeds, read, RecordError)


def http_json() -> Target:
    return _bodies("json", [*_PAYMENTS, b"[" + b",".join(_PAYMENTS[:5]) + b"]"])


def http_lines() -> Target:
    return _bodies("lines", [b"\n".join(_PAYMENTS[:4]), b"\r\n\n".join(_PAYMENTS[3:6])])


def http_headers() -> Target:
    seeds = [b"application/json; charset=utf-8", b'application/x-ndjson;charset="UTF-8"', b"application/jsonl"]
    return stateless(seeds, lambda data: form_of(data.decode("latin-1")))


class _Nowhere:
    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        """Everything is acknowledged at once."""


def http_request() -> Target:
    """A whole request at the endpoint; its first line is the Content-Length and the Content-Type."""
    pipeline = pipelines.fraud()
    source = pipeline.ingest.sources[0].model_copy(update={"http": True})
    pipeline = pipeline.model_copy(update={"ingest": pipeline.ingest.model_copy(update={"sources": [source]})})
    config = IngestConfig(bootstrap_servers="none", pipeline="fraud")
    metrics = HttpMetrics(Metrics({"pipeline": "fraud", "service": "ingest"}, INGEST))

    def fresh() -> Decode:
        intakes = open_intakes(pipeline).by_name
        endpoint = EventsEndpoint(intakes, _Nowhere(), config.http_limits, lambda: NOW_MS, metrics)
        app = Starlette(routes=list(endpoint.routes()))
        return lambda data: _runner().run(_request(app, data))

    return Target([b"%d application/json\n%s" % (len(seed), seed) for seed in _PAYMENTS], fresh)


@cache
def _runner() -> asyncio.Runner:
    """One event loop for all requests of a process: to make one costs more than a request."""
    return asyncio.Runner()


async def _request(app: Starlette, data: bytes) -> int:
    first, _, body = data.partition(b"\n")
    length, _, kind = first.partition(b" ")
    headers = [(b"content-type", kind)]
    if length.isdigit():  # the HTTP server refuses any other before the application sees it
        headers.append((b"content-length", length))
    parts = iter([body[: len(body) // 2], body[len(body) // 2 :]])
    status = 0

    async def receive() -> dict[str, object]:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: dict[str, object]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = int(str(message["status"]))

    path = "/v1/events/card-payments"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    await app(scope | {"headers": headers, "http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send)
    if not 200 <= status < 500:
        raise AssertionError(f"the request was answered with {status}")
    return status
