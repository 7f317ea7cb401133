"""The endpoint behind the real HTTP server, over a real socket: what hand-driven ASGI cannot show."""

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from tidemill.ingest.config import IngestConfig
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.http import EventsEndpoint
from tidemill.ingest.metrics import INGEST, HttpMetrics
from tidemill.ingest.sources import open_intakes
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.metrics import Metrics
from unit.ingest.samples import EVENT_BYTES, NOW_MS, PAYMENT, fraud_pipeline

PATH = "/v1/events/card-payments"


class Keeping:
    """An appender that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Accepted] = []

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        self.records.extend(records)


class Site:
    def __init__(self, address: tuple[str, int], kept: list[Accepted]) -> None:
        self.address = address
        self.kept = kept

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=30)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    config = IngestConfig(
        bootstrap_servers="127.0.0.1:1",
        pipeline="fraud",
        data_dir=tmp_path,
        http_max_body_bytes=20_000,
        http_max_bytes_in_flight=100_000,
    )
    metrics = Metrics({"pipeline": "fraud", "service": "ingest"}, INGEST)
    keeping = Keeping()
    intakes = open_intakes(fraud_pipeline()).by_name
    endpoint = EventsEndpoint(intakes, keeping, config.http_limits, lambda: NOW_MS, HttpMetrics(metrics))
    server = serve_http(config, Health("ingest", metrics), endpoint.routes())
    parts = urlsplit(server.url)
    assert parts.hostname is not None and parts.port is not None
    yield Site((parts.hostname, parts.port), keeping.records)
    server.close()


def send_until_refused(connection: socket.socket, chunk: bytes) -> None:
    for _ in range(1_000_000):
        connection.sendall(chunk)


def answer(connection: http.client.HTTPConnection) -> tuple[int, object]:
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_requests_follow_one_another_on_one_connection(site: Site) -> None:
    connection = site.connect()
    for body, expected in ((orjson.dumps(PAYMENT), 202), (b"{", 400), (orjson.dumps([PAYMENT] * 3), 202)):
        connection.request("POST", PATH, body, {"content-type": "application/json"})
        assert answer(connection)[0] == expected
    assert [record.value for record in site.kept] == [EVENT_BYTES] * 4
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    assert 'requests_total{pipeline="fraud",service="ingest",source="card-payments",status="202"} 2.0' in text
    connection.close()


def test_a_chunked_body_is_accepted(site: Site) -> None:
    connection = site.connect()
    raw = orjson.dumps(PAYMENT)
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    connection.request("POST", PATH, iter([raw[:10], raw[10:50], raw[50:]]), headers, encode_chunked=True)
    assert answer(connection) == (202, {"accepted": 1})
    connection.close()


def test_a_client_sees_413_although_it_is_still_sending(site: Site) -> None:
    connection = site.connect()
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    connection.request("POST", PATH, (b"x" * 1_000 for _ in range(35)), headers, encode_chunked=True)
    assert answer(connection)[0] == 413
    connection.close()


def test_an_endless_body_is_cut_off(site: Site) -> None:
    with socket.create_connection(site.address, timeout=30) as raw:
        headers = "host: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked"
        raw.sendall(f"POST {PATH} HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        chunk = b"%x\r\n%b\r\n" % (1_000, b"x" * 1_000)
        with pytest.raises(OSError):
            send_until_refused(raw, chunk)
    assert site.kept == []


def test_health_answers_beside_the_events(site: Site) -> None:
    connection = site.connect()
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
