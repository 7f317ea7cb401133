"""The views on Faust's web server: health and metrics as every service has them, and the learning loop's own."""

import socket
from typing import cast

import orjson
from aiohttp import web as aiohttp_web
from faust.web import Request, Response, View
from prometheus_client import generate_latest

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.retrain.app import RetrainApp
from tidemill.retrain.core.policy import ManualRequest
from tidemill.runtime.health import STALLED_AFTER_S, Health

_MAX_BODY = 10_000


def add_views(app: RetrainApp, health: Health) -> None:
    """`/livez`, `/readyz`, `/metrics`, and `/retrain`: GET shows the loop, POST asks for a training."""

    @app.faust.page("/livez")
    class Live(View):
        async def get(self, request: Request) -> Response:
            silent = health.seconds_since_beat()
            alive = silent < STALLED_AFTER_S
            answer = {"alive": alive, "seconds_since_beat": round(silent, 3)}
            return self.json(answer, status=200 if alive else 503)

    @app.faust.page("/readyz")
    class Ready(View):
        async def get(self, request: Request) -> Response:
            return self.json(health.snapshot(), status=200 if health.ready else 503)

    @app.faust.page("/metrics")
    class Metrics(View):
        async def get(self, request: Request) -> Response:
            text = generate_latest(health.metrics.registry)
            return self.bytes(text, content_type="text/plain")

    @app.faust.page("/retrain")
    class Retrain(View):
        async def get(self, request: Request) -> Response:
            return self.json(app.view())

        async def post(self, request: Request) -> Response:
            """202 with the decision to train, 409 with what stands against it, 400 for a bad body, 503 on standby."""
            try:
                asked = parse_request(await cast(aiohttp_web.Request, request).read())
            except ValueError as error:
                return self.json({"error": str(error)}, status=400)
            try:
                decisions = await app.ask(asked)
            except TidemillError as error:
                return self.json({"error": error.message}, status=503)
            ours = [decision for decision in decisions if decision.trigger == asked.id]
            if not ours:
                return self.json({"error": f"the request {asked.id} was answered before"}, status=409)
            decision = ours[-1]
            status = 202 if decision.kind == "retrain" else 409
            return self.json({"id": decision.id, "kind": decision.kind, "reason": decision.reason}, status=status)


def parse_request(body: bytes) -> ManualRequest:
    """`{"reason": "…", "id": "…"}`, both optional; a repeated id is the same request. Raises ValueError."""
    if len(body) > _MAX_BODY:
        raise ValueError(f"the body has {len(body)} bytes, {_MAX_BODY} are allowed")
    document = orjson.loads(body) if body.strip() else {}
    if not isinstance(document, dict) or not all(isinstance(value, str) and value for value in document.values()):
        raise ValueError('the body must be a JSON object of strings, such as {"reason": "new fraud pattern"}')
    unknown = sorted(set(document) - {"reason", "id"})
    if unknown:
        raise ValueError(f"unknown members: {', '.join(unknown)}")
    identifier = document.get("id", f"request/{clock.wall_ms()}")
    return ManualRequest(identifier, document.get("reason", "somebody asked for it"))


def free_port(host: str) -> int:
    """A port that was free a moment ago: Faust takes no 0 and no socket, so another process may still come first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
