"""What the health endpoints say."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.runtime import health as module
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health, HttpServer, SharedHealth, serve_http
from tidemill.runtime.metrics import RUNTIME, Declared, Metrics


def config(tmp_path: Path, port: int = 0) -> RuntimeConfig:
    return RuntimeConfig(
        bootstrap_servers="none", pipeline="p", http_port=port, endpoint_file=tmp_path / "deep" / "endpoint.json"
    )


@pytest.fixture
def health() -> Health:
    return Health("features-customer", Metrics({"pipeline": "p", "service": "features-customer"}), instance=3)


@pytest.fixture
def server(tmp_path: Path, health: Health) -> Iterator[HttpServer]:
    async def extra(_: Request) -> PlainTextResponse:
        return PlainTextResponse("extra")

    server = serve_http(config(tmp_path), health, [Route("/v1/extra", extra)])
    yield server
    server.close()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


def test_it_is_not_ready_until_told_so_and_says_why(server: HttpServer, health: Health) -> None:
    health.set_ready(False, "restoring state")
    health.info["model"] = 4
    status, body = get(f"{server.url}/readyz")
    assert status == 503
    assert json.loads(body) == {
        "service": "features-customer",
        "instance": 3,
        "ready": False,
        "reason": "restoring state",
        "info": {"model": 4},
    }
    health.set_ready(True)
    assert get(f"{server.url}/readyz")[0] == 200


def test_it_lives_as_long_as_its_loop_turns(
    server: HttpServer, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.beat()
    assert get(f"{server.url}/livez")[0] == 200
    monkeypatch.setattr(module, "STALLED_AFTER_S", -1.0)
    assert get(f"{server.url}/livez")[0] == 503


def test_metrics_carry_pipeline_and_service(server: HttpServer, health: Health) -> None:
    health.metrics.count("tidemill_runtime_records_total", 5, "fraud-events")
    line = 'tidemill_runtime_records_total{pipeline="p",service="features-customer",topic="fraud-events"} 5.0'
    assert line in get(f"{server.url}/metrics")[1].decode()


def test_a_service_adds_its_own_routes(server: HttpServer) -> None:
    assert get(f"{server.url}/v1/extra") == (200, b"extra")


def test_the_endpoint_file_names_the_process(server: HttpServer, tmp_path: Path) -> None:
    about = json.loads((tmp_path / "deep" / "endpoint.json").read_bytes())
    assert about["url"] == server.url
    assert about.keys() == {"service", "instance", "pid", "url"}


def test_a_taken_port_is_told_in_one_sentence(server: HttpServer, health: Health, tmp_path: Path) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(EnvironmentUnusable, match=f"cannot listen on 127.0.0.1:{port}"):
        serve_http(config(tmp_path, port), health)


def test_every_metric_is_named_by_the_rules_and_says_what_to_do() -> None:
    for metric in RUNTIME:
        assert metric.name.startswith("tidemill_runtime_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help
        assert metric.action


def test_what_is_not_declared_cannot_be_emitted(health: Health) -> None:
    with pytest.raises(KeyError):
        health.metrics.count("tidemill_runtime_surprises_total")
    health.metrics.declare([Declared("tidemill_toy_things_total", "counter", "things", "h", "a", ("kind",))])
    health.metrics.count("tidemill_toy_things_total", 2, "big")
    labels = {"pipeline": "p", "service": "features-customer", "kind": "big"}
    assert health.metrics.registry.get_sample_value("tidemill_toy_things_total", labels) == 2


def test_several_stages_in_one_process_are_ready_when_all_are_and_share_one_exposition(tmp_path: Path) -> None:
    first = Metrics({"pipeline": "p", "service": "features-a"})
    second = Metrics({"pipeline": "p", "service": "features-b"}, beside=first)
    stages = [Health("p-features-a", first), Health("p-features-b", second)]
    server = serve_http(config(tmp_path), SharedHealth(stages))
    try:
        stages[0].set_ready(True)
        stages[1].set_ready(False, "restoring state")
        status, body = get(f"{server.url}/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "p-features-b: restoring state")
        stages[1].set_ready(True)
        status, body = get(f"{server.url}/readyz")
        assert (status, json.loads(body)["stages"]["p-features-a"]["ready"]) == (200, True)
        for metrics, count in ((first, 2), (second, 5)):
            metrics.count("tidemill_runtime_records_total", count, "t")
        _, body = get(f"{server.url}/metrics")
        lines = body.decode().splitlines()
        counts = [line.rpartition(" ")[2] for line in lines if line.startswith("tidemill_runtime_records_total{")]
        assert sorted(counts) == ["2.0", "5.0"]
        assert sum(line.startswith("# TYPE tidemill_runtime_records_total ") for line in lines) == 1
    finally:
        server.close()


def test_one_silent_stage_is_the_silence_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Health(name, Metrics({"pipeline": "p", "service": name})) for name in ("a", "b")]
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 100)
    stages[0].beat()
    assert SharedHealth(stages).seconds_since_beat() >= 100
