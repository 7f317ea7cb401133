"""One client's connection through the proxy: two pumps, and the faults that a single connection can have."""

import asyncio
import socket
import struct
from collections import Counter
from typing import Protocol

from chaosharness.wire import Frames, MalformedFrameError, Request, correlation_of, parse_request

_CHUNK = 1 << 18
_APART_S = 1e-6
"""Timers of the same moment run in no promised order."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Rules(Protocol):
    """What the proxy says of every frame that passes."""

    async def admit(self, link: "Link", request: Request) -> bool:
        """Whether this request goes on to the broker; may take its time."""
        ...

    def answered(self, request: Request, response: bytes) -> None:
        """An answer has come from the broker."""
        ...

    def latency_s(self) -> float:
        """By how long the next frame is to be late."""
        ...


class Link:
    """Owns both sockets of one connection; ends when either side closes. Event-loop thread only."""

    def __init__(
        self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter, rules: Rules, faults: Counter[str]
    ) -> None:
        self.transactional_ids: set[str] = set()
        self.swallows_requests = False
        self.swallows_answers = False
        self._client = client
        self._broker = broker
        self._rules = rules
        self._faults = faults
        self._asked: dict[int, Request] = {}
        self._delayed = {id(client): 0, id(broker): 0}
        self._due = {id(client): 0.0, id(broker): 0.0}
        self._stuck = False

    async def requests(self, source: asyncio.StreamReader) -> None:
        """Client to broker, until the client closes."""
        frames = Frames()
        while data := await source.read(_CHUNK):
            if self.swallows_requests or self._stuck:
                self._faults["swallowed_bytes"] += len(data)
                continue
            try:
                requests = [parse_request(frame) for frame in frames.feed(data)]
            except MalformedFrameError:
                self._faults["malformed"] += 1
                return
            for request in requests:
                self._asked[request.correlation] = request
                if request.transactional_id is not None:
                    self.transactional_ids.add(request.transactional_id)
                if not await self._rules.admit(self, request):
                    self._stuck = True  # the broker would answer what follows only after this one
                    break
                await self._send(self._broker, request.frame)

    async def answers(self, source: asyncio.StreamReader) -> None:
        """Broker to client, until the broker closes."""
        frames = Frames()
        while data := await source.read(_CHUNK):
            for frame in frames.feed(data):
                request = self._asked.pop(correlation_of(frame), None)
                if request is not None:
                    self._rules.answered(request, frame)
                if self.swallows_answers:
                    self._faults["swallowed_bytes"] += len(frame)
                else:
                    await self._send(self._client, frame)

    async def _send(self, to: asyncio.StreamWriter, frame: bytes) -> None:
        """In order, also where the delay changes: no frame overtakes one that still waits."""
        latency = self._rules.latency_s()
        if not latency and not self._delayed[id(to)]:
            to.write(frame)
        else:
            loop = asyncio.get_running_loop()
            due = max(loop.time() + latency, self._due[id(to)])
            self._due[id(to)] = due + _APART_S
            self._delayed[id(to)] += 1
            self._faults["delayed"] += 1
            loop.call_at(due, self._write_late, to, frame)
        await to.drain()

    def _write_late(self, to: asyncio.StreamWriter, frame: bytes) -> None:
        self._delayed[id(to)] -= 1
        if not to.is_closing():
            to.write(frame)

    def reset(self) -> None:
        """RST to the client; the broker's side is closed in good order."""
        raw: socket.socket | None = self._client.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._client.transport.abort()
        self._broker.close()

    def close(self) -> None:
        for writer in (self._client, self._broker):
            writer.close()
