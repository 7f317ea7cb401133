"""The Open Inference Protocol over a real socket with a plain HTTP client, on the batcher that the stream uses."""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from support.inference_harness import Stage, feature_record, started
from support.inference_models import WIDTH, constant, external_weights, mlp, nan_below_zero, run_graph
from tidemill.inference.catalogue import Selection
from tidemill.inference.core.blocks import Lane
from tidemill.inference.core.model import Matrix, ModelError, Scores
from tidemill.inference.http import ApiLimits, InferenceApi, ModelSignature
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health, HttpServer, serve_http
from tidemill.runtime.metrics import Metrics

LIMITS = ApiLimits(max_request_bytes=20_000, max_rows=64, deadline_ms=5_000)
MODEL = "/v2/models/fraud-mlp"


class Client:
    """One running process' HTTP side."""

    def __init__(self, stage: Stage, server: HttpServer, answered: list[int]) -> None:
        self.stage = stage
        self.answered = answered
        self._server = server
        self._address = server.url.removeprefix("http://")

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        status, _, answer = self.exchange(method, path, body, {})
        return status, orjson.loads(answer)

    def exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, int | None, bytes]:
        """Status, the length of the JSON where a binary tensor follows, and the body."""
        connection = http.client.HTTPConnection(self._address, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            length = answer.getheader(JSON_LENGTH)
            return answer.status, None if length is None else int(length), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def infer(self, rows: list[Any], path: str = MODEL, **members: Any) -> tuple[int, Any]:
        return self.call("POST", f"{path}/infer", orjson.dumps(tensor(rows) | members))


JSON_LENGTH = "Inference-Header-Content-Length"


def binary(rows: int, size: int | None = None, **members: Any) -> dict[str, Any]:
    parameters = {} if size is None else {"binary_data_size": size}
    one = {"name": "features", "shape": [rows, WIDTH], "datatype": "FP32", "parameters": parameters}
    return {"inputs": [one]} | members


def tensor(rows: list[Any], **changes: Any) -> dict[str, Any]:
    one = {"name": "features", "shape": [len(rows), WIDTH], "datatype": "FP32", "data": rows}
    return {"inputs": [one | changes]}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    stage = Stage()
    stage.deliver()
    metrics = Metrics({"pipeline": "fraud", "service": "inference"})
    health = Health("inference", metrics)
    health.set_ready(True)
    answered: list[int] = []
    signature = ModelSignature("fraud-mlp", WIDTH, "score")
    api = InferenceApi(signature, LIMITS, stage.catalogue, stage.worker, lambda: health.ready, answered.append)
    config = RuntimeConfig(bootstrap_servers="unused:1", pipeline="fraud", data_dir=tmp_path)
    server = serve_http(config, health, api.routes())
    yield Client(stage, server, answered)
    server.close()
    stage.close()


class Gate:
    """A model that scores only when it is let to, so that a test decides how long the slot is taken."""

    name, version, provider = "fraud-mlp", 1, "test"
    probe: Matrix = np.zeros((1, WIDTH), np.float32)

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def score(self, rows: Matrix) -> Scores:
        self.entered.set()
        assert self.open.wait(10)
        return np.full(len(rows), 0.5, np.float32)


class Broken(Gate):
    def score(self, rows: Matrix) -> Scores:
        raise ModelError("the device is gone")


def test_the_server_describes_itself_and_its_models(client: Client) -> None:
    status, server = client.get("/v2")
    assert status == 200 and server["name"] == "tidemill-inference"
    assert server["extensions"] == ["binary_tensor_data", "model_repository"]
    assert client.get("/v2/health/live") == (200, {"live": True})
    assert client.get("/v2/health/ready") == (503, {"ready": False})
    assert client.get("/v2/models") == (200, [])
    client.stage.publish(1, constant(0.1))
    client.stage.publish(2, mlp())
    client.stage.publish(3, external_weights())
    client.stage.activate(1, 1, 2)
    client.stage.deliver()
    assert client.get("/v2/health/ready") == (200, {"ready": True})
    _, listing = client.get("/v2/models")
    assert [(one["version"], one["state"], one["role"]) for one in listing] == [
        ("3", "UNAVAILABLE", None),
        ("2", "READY", "challenger"),
        ("1", "READY", "champion"),
    ]
    assert listing[0]["reason"].startswith("external_data: ")
    status, model = client.get(MODEL)
    assert status == 200
    assert model == {
        "name": "fraud-mlp",
        "versions": ["2", "1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1]}],
    }
    assert client.get(f"{MODEL}/versions/2")[1]["versions"] == ["2"]
    assert client.get(f"{MODEL}/ready") == (200, {"name": "fraud-mlp", "ready": True})
    assert client.get(f"{MODEL}/versions/3/ready") == (503, {"name": "fraud-mlp", "ready": False})


def test_infer_gives_the_scores_of_the_graph(client: Client) -> None:
    data = mlp()
    client.stage.go_live(1, data)
    rows = np.random.default_rng(1).uniform(0, 2, (5, WIDTH)).astype(np.float32)
    rows[0, 3] = np.nan
    nested = [[None if np.isnan(x) else float(x) for x in row] for row in rows]
    status, answer = client.infer(nested, id="42")
    assert status == 200
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "fraud-mlp", "1")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [5])
    np.testing.assert_allclose(output["data"], run_graph(data, rows), atol=1e-6)
    flat = [value for row in nested for value in row]
    body = orjson.dumps({"inputs": [{"name": "features", "shape": [5, WIDTH], "datatype": "FP32", "data": flat}]})
    assert client.call("POST", f"{MODEL}/infer", body)[1]["outputs"] == answer["outputs"]


@pytest.mark.parametrize("asked", [{}, {"parameters": {"binary_data_output": True}}, {"outputs": [
    {"name": "score", "parameters": {"binary_data": True}}]}])  # fmt: skip
def test_binary_tensors_give_the_scores_of_json_ones_to_the_last_bit(client: Client, asked: dict[str, Any]) -> None:
    client.stage.go_live(1, mlp())
    rows = np.random.default_rng(1).uniform(0, 2, (5, WIDTH)).astype(np.float32)
    rows[0, 3] = np.nan  # an undefined feature
    nested = [[None if np.isnan(x) else float(x) for x in row] for row in rows]
    expected = client.infer(nested)[1]["outputs"][0]["data"]
    blob = rows.tobytes()
    text = orjson.dumps(binary(5, len(blob), **asked))
    status, length, body = client.exchange("POST", f"{MODEL}/infer", text + blob, {JSON_LENGTH: str(len(text))})
    assert status == 200
    (output,) = orjson.loads(body[:length])["outputs"]
    assert output["shape"] == [5]
    if asked:
        assert length is not None and output["parameters"] == {"binary_data_size": 20} and "data" not in output
        scores = np.frombuffer(body[length:], "<f4").tolist()
    else:
        assert length is None
        scores = output["data"]
    assert [np.float32(score) for score in scores] == [np.float32(score) for score in expected]


def test_a_wrong_length_of_the_json_or_of_what_follows_is_400(client: Client) -> None:
    client.stage.catalogue.offer(Selection(1, Gate()))
    blob = np.zeros((1, WIDTH), "<f4").tobytes()
    text = orjson.dumps(binary(1, len(blob)))
    endless = np.full((1, WIDTH), np.inf, "<f4").tobytes()
    for body, header, said in (
        (text + blob, "-1", "number of bytes"),
        (text + blob, "many", "number of bytes"),
        (text + blob, str(len(text + blob) + 1), "the body has"),
        (text + blob[1:], str(len(text)), "bytes follow"),
        (text + blob + b"0", str(len(text)), "bytes follow"),
        (text + endless, str(len(text)), "not finite"),
        (orjson.dumps(tensor([ROW])) + b"0", str(len(orjson.dumps(tensor([ROW])))), "1 bytes follow"),
    ):
        status, _, answer = client.exchange("POST", f"{MODEL}/infer", body, {JSON_LENGTH: header})
        assert status == 400 and said in orjson.loads(answer)["error"]


def test_a_named_version_scores_even_if_it_does_not_serve(client: Client) -> None:
    client.stage.go_live(1, constant(0.25))
    client.stage.go_live(2, constant(0.75))
    scores = [client.infer([[0.0] * WIDTH], f"{MODEL}/versions/{v}")[1]["outputs"][0]["data"] for v in (1, 2)]
    assert scores == [[0.25], [0.75]]


ROW = [0.0] * WIDTH
BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "not an inference request"),
    "NaN": (orjson.dumps(tensor([ROW])).replace(b"0.0", b"NaN", 1), "not an inference request"),
    "Infinity": (orjson.dumps(tensor([ROW])).replace(b"0.0", b"Infinity", 1), "not an inference request"),
    "1e999": (orjson.dumps(tensor([ROW])).replace(b"0.0", b"1e999", 1), "not an inference request"),
    "float32 overflow": (orjson.dumps(tensor([[1e39, *ROW[1:]]])), "not finite"),
    "no inputs": (b"{}", "inputs"),
    "wrong input": (orjson.dumps(tensor([ROW], name="x")), "exactly one, 'features'"),
    "wrong type": (orjson.dumps(tensor([ROW], datatype="INT64")), "FP32"),
    "wrong width": (orjson.dumps(tensor([ROW[1:]], shape=[1, 14])), "shape"),
    "no rows": (orjson.dumps(tensor([])), "at least one row"),
    "too little data": (orjson.dumps(tensor([ROW], shape=[2, WIDTH])), "another count"),
    "ragged": (orjson.dumps(tensor([[*ROW, 0.0], ROW[1:]])), "another count"),
    "text": (orjson.dumps(tensor([["0"] * WIDTH])), "data"),
    "booleans": (orjson.dumps(tensor([[True] * WIDTH])), "data"),
    "unknown output": (orjson.dumps(tensor([ROW]) | {"outputs": [{"name": "y"}]}), "outputs ['y'] do not exist"),
    "negative deadline": (orjson.dumps(tensor([ROW]) | {"parameters": {"deadline_ms": -1}}), "deadline_ms"),
    "binary size without bytes": (orjson.dumps(binary(1, 4 * WIDTH)), "0 bytes follow"),
    "data and a binary size": (orjson.dumps(tensor([ROW], parameters={"binary_data_size": 4 * WIDTH})), "not both"),
    "neither data nor a binary size": (orjson.dumps(binary(1)), "neither data nor"),
    "a priority too low": (orjson.dumps(tensor([ROW]) | {"parameters": {"priority": 10}}), "priority"),
    "a priority that is a truth": (orjson.dumps(tensor([ROW]) | {"parameters": {"priority": True}}), "priority"),
    "text deadline": (orjson.dumps(tensor([ROW]) | {"parameters": {"deadline_ms": "1"}}), "deadline_ms"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_request_is_told_what_is_wrong(client: Client, case: str) -> None:
    body, message = BAD_BODIES[case]
    client.stage.catalogue.offer(Selection(1, Gate()))
    status, answer = client.call("POST", f"{MODEL}/infer", body)
    assert status == 400
    assert message in answer["error"]


def test_what_does_not_exist_is_404_and_what_is_not_there_yet_503(client: Client) -> None:
    assert client.infer([ROW])[0] == 503
    assert client.infer([ROW], "/v2/models/spam")[0] == 404
    assert client.get("/v2/models/spam")[0] == 404
    assert client.infer([ROW], f"{MODEL}/versions/9")[0] == 404
    client.stage.publish(3, external_weights())
    client.stage.deliver()
    status, answer = client.infer([ROW], f"{MODEL}/versions/3")
    assert status == 503 and "external_data" in answer["error"]
    assert client.answered == [503, 404, 404, 503]


def test_too_much_is_413(client: Client) -> None:
    client.stage.go_live(1, constant(0.5))
    assert client.infer([ROW] * 65)[0] == 413
    status, answer = client.call("POST", f"{MODEL}/infer", b" " * 20_001)
    assert status == 413 and "20000 bytes" in answer["error"]


def test_a_full_queue_is_429_and_an_expired_deadline_504(client: Client) -> None:
    gate = Gate()
    stage = client.stage
    stage.batcher._limits = stage.batcher._limits._replace(http_rows=2)
    stage.catalogue.offer(Selection(1, gate))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.infer, [ROW])
        assert gate.entered.wait(10)
        status, answer = client.infer([ROW], parameters={"deadline_ms": 5})
        assert (status, answer["error"].partition(":")[0]) == (504, "deadline_exceeded")
        second = pool.submit(client.infer, [ROW] * 2)
        while stage.batcher.waiting(Lane.HTTP) < 2:
            assert not second.done()
        assert client.infer([ROW])[0] == 429
        gate.open.set()
        assert [first.result(10)[0], second.result(10)[0]] == [200, 200]
    assert sum(batch.size for batch in stage.recorder.batches) == 3, "the expired row was not scored"


def test_an_unusable_score_is_an_error_not_a_null(client: Client) -> None:
    client.stage.go_live(1, nan_below_zero())
    status, answer = client.infer([[0.25, *ROW[1:]], [-1.0, *ROW[1:]]])
    assert status == 500 and "row 1 cannot be scored" in answer["error"]


def test_a_broken_model_fails_its_requests_and_the_service_goes_on(client: Client) -> None:
    client.stage.catalogue.offer(Selection(1, Broken()))
    status, answer = client.infer([ROW])
    assert status == 503 and "the device is gone" in answer["error"]
    client.stage.go_live(2, constant(0.5))
    assert client.infer([ROW])[0] == 200


def test_after_the_worker_stopped_a_request_is_503(client: Client) -> None:
    client.stage.go_live(1, constant(0.5))
    client.stage.close()
    assert client.infer([ROW])[0] == 503


def test_stream_and_requests_share_batches(client: Client) -> None:
    gate = Gate()
    stage = client.stage
    stage.catalogue.offer(Selection(1, gate))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.infer, [ROW])
        assert gate.entered.wait(10)
        second = pool.submit(client.infer, [ROW])
        stage.service.add([feature_record(i) for i in range(3)], 0.0)
        while stage.batcher.waiting(Lane.HTTP) < 1:
            assert not second.done()
        gate.open.set()
        assert len(stage.service.flush(0.0).records) == 3
        assert first.result(10)[0] == second.result(10)[0] == 200
    assert [batch.size for batch in stage.recorder.batches] == [1, 4]


def test_a_swap_under_stream_and_http_load_never_mixes_versions(client: Client) -> None:
    """Version v scores v/100, so that every answer proves which version made it."""
    stage = client.stage
    stage.go_live(1, constant(0.01))
    stop = threading.Event()
    http_seen: list[tuple[str, float]] = []

    def requests() -> None:
        while not stop.is_set():
            status, answer = client.infer([ROW] * 3)
            assert status == 200
            http_seen.extend((answer["model_version"], score) for score in answer["outputs"][0]["data"])

    def swaps() -> None:
        for version in range(2, 12):
            stage.go_live(version, constant(version / 100))

    http_threads = [started(requests) for _ in range(2)]
    swapping = started(swaps)
    offset = 0
    seen: list[int] = []
    while swapping.is_alive() or offset < 2_000:
        count = 1 + offset % 37
        output = stage.score([feature_record(offset + i) for i in range(count)])
        offset += count
        for record in output.records:
            made = orjson.loads(record.value or b"")
            assert made["outputs"]["score"] == made["model_version"] / 100
            seen.append(made["model_version"])
    stop.set()
    for thread in http_threads:
        thread.join(10)
    assert len(seen) == offset, "one prediction a record"
    assert seen == sorted(seen) and len(set(seen)) > 1
    assert http_seen and all(score == pytest.approx(int(version) / 100) for version, score in http_seen)
    for batch in stage.recorder.batches:
        assert {segment.block.route for segment in batch.segments} == {batch.route}


def test_a_challenger_alone_is_no_live_model_but_can_be_asked_by_version(client: Client) -> None:
    client.stage.publish(1, constant(0.25))
    client.stage.activate(1, None, 1)
    client.stage.deliver()
    assert client.infer([ROW])[0] == 503
    assert client.get("/v2/health/ready")[0] == 503
    assert client.infer([ROW], f"{MODEL}/versions/1")[1]["outputs"][0]["data"] == [0.25]
