"""Open Inference Protocol v2 over HTTP, on the same batcher and model slot as the stream.

Runs on the HTTP thread's event loop: a handler parses, submits a block and awaits the worker's call.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from importlib.metadata import version as installed_version
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.inference.catalogue import Catalogue, Listed
from tidemill.inference.core.artefact import INPUT
from tidemill.inference.core.blocks import Block, Fate, Lane, QueueFullError
from tidemill.inference.core.model import Model
from tidemill.inference.core.model import Route as ModelRoute
from tidemill.inference.core.openinference import (
    JSON_LENGTH_HEADER,
    InferRequest,
    RequestRefusedError,
    answer,
    metadata,
    parse,
)
from tidemill.inference.worker import ModelWorker

Handler = Callable[[Request], Awaitable[Response]]


class ApiLimits(NamedTuple):
    """What a request may ask for: bytes of its body, rows, and the deadline where it names none."""

    max_request_bytes: int
    max_rows: int
    deadline_ms: float


class ModelSignature(NamedTuple):
    """The one model this service serves."""

    name: str
    width: int
    output: str


class InferenceApi:
    """The protocol's endpoints. `answered` is told the status of each inference request."""

    def __init__(
        self,
        signature: ModelSignature,
        limits: ApiLimits,
        catalogue: Catalogue,
        worker: ModelWorker,
        is_ready: Callable[[], bool],
        answered: Callable[[int], None],
    ) -> None:
        self._signature = signature
        self._limits = limits
        self._catalogue = catalogue
        self._worker = worker
        self._is_ready = is_ready
        self._answered = answered

    def routes(self) -> list[BaseRoute]:
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        return [
            Route("/v2", _guarded(self._server)),
            Route("/v2/health/live", _guarded(self._live)),
            Route("/v2/health/ready", _guarded(self._ready)),
            Route("/v2/models", _guarded(self._index)),
            *(Route(path, _guarded(self._metadata)) for path in (model, version)),
            *(Route(f"{path}/ready", _guarded(self._model_ready)) for path in (model, version)),
            *(Route(f"{path}/infer", self._counted(self._infer), methods=["POST"]) for path in (model, version)),
        ]

    async def _server(self, _: Request) -> Response:
        return JSONResponse(
            {
                "name": "tidemill-inference",
                "version": installed_version("tidemill"),
                "extensions": ["binary_tensor_data", "model_repository"],
            }
        )

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _: Request) -> Response:
        ready = self._is_ready() and self._catalogue.selection.champion is not None
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def _index(self, _: Request) -> Response:
        """Every known version, newest first, as the repository extension lists them, with the role it serves in."""
        name = self._signature.name
        listing = self._catalogue.listing()
        return JSONResponse([{"name": name, **one._asdict(), "version": str(one.version)} for one in listing])

    async def _metadata(self, request: Request) -> Response:
        listing = self._known(request)
        loaded = [one.version for one in listing if one.state == "READY"]
        return JSONResponse(metadata(self._signature.name, loaded, INPUT, *self._signature[1:]))

    async def _model_ready(self, request: Request) -> Response:
        listing = self._known(request)
        if "version" in request.path_params:
            ready = listing[0].state == "READY"
        else:
            ready = self._catalogue.selection.champion is not None
        return JSONResponse({"name": self._signature.name, "ready": ready}, 200 if ready else 503)

    async def _infer(self, request: Request) -> Response:
        arrived = clock.monotonic()
        model, route = self._route(request)
        body = await self._body(request)
        parsed = parse(body, INPUT, self._signature.width, self._signature.output, _json_length(request))
        if len(parsed.rows) > self._limits.max_rows:
            raise RequestRefusedError(413, f"{len(parsed.rows)} rows in one request, at most {self._limits.max_rows}")
        wait_s = (parsed.deadline_ms or self._limits.deadline_ms) / 1_000
        block = await self._score(parsed, route, arrived + wait_s)
        if block.poison:
            row, why = next(iter(block.poison.items()))
            raise RequestRefusedError(500, f"row {row} cannot be scored: {why}")
        answered = answer(parsed, model, self._signature.output, block.scores)
        if answered.json_length is None:
            return Response(answered.body, media_type="application/json")
        headers = {JSON_LENGTH_HEADER: str(answered.json_length)}
        return Response(answered.body, headers=headers, media_type="application/octet-stream")

    async def _score(self, parsed: InferRequest, route: ModelRoute, deadline: float) -> Block:
        settled = asyncio.Event()
        done = _waker(asyncio.get_running_loop(), settled)
        block = Block(parsed.rows, route, Lane.HTTP, done, deadline, parsed.priority)
        try:
            self._worker.submit(block)
        except QueueFullError:
            raise RequestRefusedError(429, "too many rows are waiting for the model; try again later") from None
        except TidemillError as error:
            raise RequestRefusedError(503, error.message) from error
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - clock.monotonic()):
                await settled.wait()
        except TimeoutError:
            pass  # the slot is held by a long batch: the worker would notice the deadline only after it
        finally:
            self._worker.cancel(block)  # no effect on a settled block; a client that left gives its place up
        if block.fate in (Fate.EXPIRED, Fate.CANCELLED):
            raise RequestRefusedError(504, "deadline_exceeded: the request was not scored within its deadline")
        if block.fate is Fate.FAILED:
            raise RequestRefusedError(503, block.error)
        return block

    def _known(self, request: Request) -> list[Listed]:
        """The versions that the path speaks of. Raises 404."""
        self._check_name(request)
        listing = self._catalogue.listing()
        if "version" not in request.path_params:
            return listing
        wanted = request.path_params["version"]
        named = [one for one in listing if str(one.version) == wanted]
        if not named:
            raise RequestRefusedError(404, f"model {self._signature.name} has no version {wanted}")
        return named

    def _route(self, request: Request) -> tuple[Model, ModelRoute]:
        """The model that is asked, and the route that brings its scores: the current selection's wherever possible,
        so that the batch is shared with the stream."""
        listing = self._known(request)
        if "version" in request.path_params:
            model = self._catalogue.find(listing[0].version)
            if model is None:
                raise RequestRefusedError(503, listing[0].reason)
            serving = self._catalogue.selection.route
            return model, serving if serving is not None and serving.champion is model else ModelRoute(model)
        route = self._catalogue.selection.route
        if route is None or route.champion is None:
            raise RequestRefusedError(503, "no model is live yet; the stream is scored by the pipeline's fallback rule")
        return route.champion, route

    def _check_name(self, request: Request) -> None:
        name = request.path_params["model"]
        if name != self._signature.name:
            raise RequestRefusedError(404, f"no model {name}, this service serves {self._signature.name}")

    async def _body(self, request: Request) -> bytes:
        parts = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > self._limits.max_request_bytes:
                raise RequestRefusedError(413, f"the body exceeds {self._limits.max_request_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    def _counted(self, handler: Handler) -> Handler:
        guarded = _guarded(handler)

        async def handle(request: Request) -> Response:
            response = await guarded(request)
            self._answered(response.status_code)
            return response

        return handle


def _guarded(handler: Handler) -> Handler:
    """Refusals become the protocol's `{"error": …}`."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestRefusedError as refused:
            headers = {"Retry-After": "1"} if refused.status in (429, 503) else {}
            return JSONResponse({"error": refused.message}, refused.status, headers)

    return handle


def _json_length(request: Request) -> int | None:
    text = request.headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise RequestRefusedError(400, f"{JSON_LENGTH_HEADER} is {text!r}, it must be the number of bytes of JSON")
    return int(text)


def _waker(loop: asyncio.AbstractEventLoop, settled: asyncio.Event) -> Callable[[], None]:
    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped: nobody waits for the answer any more
            loop.call_soon_threadsafe(settled.set)

    return wake
