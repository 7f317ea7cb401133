"""Whether this process lives and is ready, and the HTTP server that says so, on a thread of its own."""

import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.metrics import Metrics

STALLED_AFTER_S = 60.0
"""A loop that has not beaten for so long is taken for dead; a restore and a commit beat too."""


class Health:
    """The state of one process. Thread-safe: the owner thread writes, the HTTP thread reads."""

    def __init__(self, service: str, metrics: Metrics, instance: int = 0) -> None:
        self.service = service
        self.instance = instance
        self.metrics = metrics
        self.info: dict[str, object] = {}
        self._lock = threading.Lock()
        self._ready = False
        self._reason = "starting"
        self._last_beat = clock.monotonic()

    def set_ready(self, ready: bool, reason: str = "") -> None:
        """`reason` says what is being waited for; it is shown while not ready."""
        with self._lock:
            self._ready, self._reason = ready, reason
        self.metrics.set("tidemill_runtime_ready", 1.0 if ready else 0.0)

    def beat(self) -> None:
        """The owner thread still turns."""
        self._last_beat = clock.monotonic()

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.registry

    @property
    def ready(self) -> bool:
        return self._ready

    def snapshot(self) -> dict[str, object]:
        """Everything `/readyz` answers."""
        with self._lock:
            state = {"ready": self._ready, "reason": self._reason}
        return {"service": self.service, "instance": self.instance, **state, "info": dict(self.info)}

    def seconds_since_beat(self) -> float:
        return clock.monotonic() - self._last_beat


class SharedHealth:
    """Several stages in one process, seen as one: ready when all are, alive while all are. Thread-safe."""

    def __init__(self, healths: Sequence[Health]) -> None:
        self._healths = healths
        self.service = "+".join(health.service for health in healths)
        self.instance = healths[0].instance
        self.registry = healths[0].registry

    @property
    def ready(self) -> bool:
        return all(health.ready for health in self._healths)

    def snapshot(self) -> dict[str, object]:
        """The whole, and each stage under its name."""
        stages = {health.service: health.snapshot() for health in self._healths}
        reason = "; ".join(f"{name}: {stage['reason']}" for name, stage in stages.items() if not stage["ready"])
        about: dict[str, object] = {"service": self.service, "instance": self.instance}
        return {**about, "ready": not reason, "reason": reason, "info": {}, "stages": stages}

    def seconds_since_beat(self) -> float:
        """Of the one that has been silent longest."""
        return max(health.seconds_since_beat() for health in self._healths)


class HttpServer:
    """A running server: `url` without a slash at the end; `close` waits for its thread."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, url: str) -> None:
        self.url = url
        self._server = server
        self._listener = listener
        self._thread = threading.Thread(target=server.run, args=([listener],), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        self._listener.close()


def serve_http(config: RuntimeConfig, health: Health | SharedHealth, routes: Sequence[BaseRoute] = ()) -> HttpServer:
    """Listen (the socket accepts at return) and write the endpoint file, if one is asked for.

    Raises EnvironmentUnusable if the address is taken.
    """
    listener = _bind(config.http_host, config.http_port)
    port = int(listener.getsockname()[1])
    settings = uvicorn.Config(
        Starlette(routes=[*_health_routes(health), *routes]),
        log_config=None,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        ws="none",
    )
    server = HttpServer(_QuietServer(settings), listener, url_of(config.http_host, port))
    if config.endpoint_file is not None:
        write_endpoint(config.endpoint_file, health, server.url)
    return server


class _QuietServer(uvicorn.Server):
    """uvicorn off the main thread: signals belong to the service, not to it."""

    def install_signal_handlers(self) -> None:
        return None


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol number asyncio would not set TCP_NODELAY, which costs a kept-alive answer 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise EnvironmentUnusable(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="set TIDEMILL_HTTP_PORT to another port, or to 0"
        ) from None
    listener.listen(128)
    return listener


def url_of(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def write_endpoint(path: Path, health: Health | SharedHealth, url: str) -> None:
    """Written beside and renamed, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    about = {"service": health.service, "instance": health.instance, "pid": os.getpid(), "url": url}
    part.write_bytes(orjson.dumps(about))
    part.replace(path)


def _health_routes(health: Health | SharedHealth) -> list[BaseRoute]:
    async def livez(_: Request) -> Response:
        silent = health.seconds_since_beat()
        alive = silent < STALLED_AFTER_S
        return JSONResponse({"alive": alive, "seconds_since_beat": round(silent, 3)}, 200 if alive else 503)

    async def readyz(_: Request) -> Response:
        return JSONResponse(health.snapshot(), 200 if health.ready else 503)

    async def metrics(_: Request) -> Response:
        text = generate_latest(health.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]
