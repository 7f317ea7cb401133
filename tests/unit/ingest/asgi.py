"""Drives an ASGI application by hand: chunk by chunk, on one event loop, with no socket and no wait."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import orjson
from starlette.applications import Starlette


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


async def request(
    app: Starlette,
    path: str,
    body: bytes | Iterable[bytes] | AsyncIterator[bytes] = b"",
    *,
    method: str = "POST",
    content_type: str | None = "application/json",
    headers: dict[str, str] | None = None,
    announce: bool = True,
) -> Reply:
    """One request. `body` in several chunks is sent without a Content-Length, as chunked bodies are."""
    sent: dict[str, str] = dict(headers or {})
    if content_type is not None:
        sent["content-type"] = content_type
    if isinstance(body, bytes) and announce:
        sent["content-length"] = str(len(body))
    chunks = _chunks(body)
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        return (
            {"type": "http.disconnect"} if chunk is None else {"type": "http.request", "body": chunk, "more_body": True}
        )

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    raw = b"".join(message.get("body", b"") for message in messages)
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], named, orjson.loads(raw) if raw else None)


async def _chunks(body: Any) -> AsyncIterator[bytes | None]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, AsyncIterator):
        async for chunk in body:
            yield chunk
    else:
        for chunk in body:
            yield chunk
            await asyncio.sleep(0)
