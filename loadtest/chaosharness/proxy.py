"""A Kafka-aware TCP proxy between clients and one broker, with faults that a test switches on and off.

    with LocalKafka(folder, proxied_port=port) as broker, Proxy(port, broker.upstream_port, seed=1) as proxy:
        ... clients with proxy.bootstrap_servers ...
        proxy.delay(20, jitter_ms=10)
        proxy.reset(share=0.5)
        proxy.half_open(3.0, answers=False)
        proxy.hold(Api.END_TXN, count=5)
        proxy.counts()

The proxy runs on a thread of its own; every method may be called from any other. The broker advertises the proxy's
port (`LocalKafka.proxied_port`), so nothing in its answers has to be rewritten.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from chaosharness.latedelivery import NO_ERROR, OVER, LateRequest, Phase
from chaosharness.proxylink import Link
from chaosharness.wire import Api, Request
from tidemill.errors import EnvironmentUnusable
from tidemill.local.machine import LOOPBACK

_CALL_WITHIN_S = 10.0
_LATE_ANSWER_WITHIN_S = 10.0
T = TypeVar("T")


class Late(NamedTuple):
    """What became of one held request. `answer` is the broker's error code for it, 0 where it obeyed."""

    transactional_id: str
    commit: bool
    phase: Phase
    answer: int | None

    @property
    def over(self) -> bool:
        return self.phase in OVER


class Proxy:
    """Listens on `port` and forwards to `upstream_port`, both on loopback. A context manager; starts once."""

    def __init__(self, port: int, upstream_port: int, seed: int = 0) -> None:
        self._port = port
        self._upstream_port = upstream_port
        self._random = Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: Counter[str] = Counter()
        self._delay_s = self._jitter_s = 0.0
        self._hold: dict[int, int] = {}
        self._hold_by: Literal["silence", "reset"] = "silence"
        self._late: list[LateRequest] = []
        self._swallows = (False, False)

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self._port}"

    # Faults

    def delay(self, ms: float, jitter_ms: float = 0.0) -> None:
        """Every frame of either direction comes `ms` late, give or take `jitter_ms`; 0 ends it."""
        self._call(self._set_delay, ms / 1000, jitter_ms / 1000)

    def reset(self, share: float = 1.0, transactional_id: str | None = None) -> int:
        """Reset this share of the open connections, or of those that carried this id; returns how many."""
        return self._call(self._reset, share, transactional_id)

    def half_open(self, seconds: float, *, requests: bool = True, answers: bool = True) -> None:
        """Swallow what is sent for so long, on connections old and new, and close none. Returns at once. Afterwards
        the connections that lost something are reset: what they carry makes no sense any more."""
        self._call(self._half_open, seconds, requests, answers)

    def healed(self) -> bool:
        """Whether nothing is swallowed any more."""
        return self._call(lambda: not any(self._swallows))

    def hold(self, api: Api = Api.END_TXN, count: int = 1, by: Literal["silence", "reset"] = "silence") -> None:
        """Keep back the next `count` of these transactional requests, one at a time for each transactional id, and
        deliver each inside its producer's next transaction. The client hears nothing until its own time-out, or with
        `reset` loses the connection at once."""
        self._call(self._set_hold, api, count, by)

    def counts(self) -> dict[str, int]:
        """How often each fault really happened: delayed, reset, swallowed_bytes, half_open (connections), held,
        released (inside the next transaction), late_obeyed, late_refused, connections."""
        return self._call(self._counts)

    def late(self) -> list[Late]:
        """Every held request so far, in order."""
        return self._call(self._late_so_far)

    # Life

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._await(self._listen())
        except OSError as error:
            self._stop_thread()
            raise EnvironmentUnusable(
                f"The proxy cannot listen on {self.bootstrap_servers}: {error.strerror}.",
                hint="Stop what listens there, or choose another port.",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._await(self._close())
        self._stop_thread()

    def _stop_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_WITHIN_S)
        self._loop.close()

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        async def call() -> T:
            return function(*arguments)

        return self._await(call())

    def _await(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(_CALL_WITHIN_S)

    # On the proxy's thread from here on

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self._port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(from_client, to_client)
        except asyncio.CancelledError:
            to_client.close()  # the proxy stops
        finally:
            self._tasks.discard(task)

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_broker, to_broker = await asyncio.open_connection(LOOPBACK, self._upstream_port)
        except OSError:
            to_client.transport.abort()  # as a broker that is away
            return
        link = Link(to_client, to_broker, self, self._faults)
        self._links.add(link)
        self._faults["connections"] += 1
        self._swallow(link)
        pumps = [asyncio.ensure_future(link.requests(from_client)), asyncio.ensure_future(link.answers(from_broker))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for pump in pumps:
                with suppress(OSError, asyncio.CancelledError):
                    await pump
            link.close()
            self._links.discard(link)

    async def admit(self, link: Link, request: Request) -> bool:
        if request.transactional_id is None:
            return True
        active = self._active(request.transactional_id)
        if active is not None:
            await active.before(request)
        elif self._hold.get(request.api, 0) > 0:
            self._hold[request.api] -= 1
            self._late.append(LateRequest(request, self._deliver))
            self._faults["held"] += 1
            if self._hold_by == "reset":
                self._faults["reset"] += 1
                link.reset()
            return False
        return True

    def answered(self, request: Request, response: bytes) -> None:
        if request.transactional_id is not None and (active := self._active(request.transactional_id)) is not None:
            active.answered(request, response)

    def latency_s(self) -> float:
        if not self._delay_s:
            return 0.0
        return max(0.0, self._delay_s + self._random.uniform(-self._jitter_s, self._jitter_s))

    def _active(self, transactional_id: str) -> LateRequest | None:
        for late in reversed(self._late):
            if late.request.transactional_id == transactional_id:
                return None if late.over else late
        return None

    async def _deliver(self, frame: bytes) -> bytes:
        async with asyncio.timeout(_LATE_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, self._upstream_port)
            try:
                writer.write(frame)
                length = await reader.readexactly(4)
                return length + await reader.readexactly(int.from_bytes(length, "big"))
            finally:
                writer.close()

    def _set_delay(self, delay_s: float, jitter_s: float) -> None:
        self._delay_s, self._jitter_s = delay_s, jitter_s

    def _set_hold(self, api: Api, count: int, by: Literal["silence", "reset"]) -> None:
        self._hold[api] = count
        self._hold_by = by

    def _reset(self, share: float, transactional_id: str | None) -> int:
        chosen = [
            link
            for link in self._links
            if (transactional_id is None or transactional_id in link.transactional_ids)
            and self._random.random() < share
        ]
        for link in chosen:
            link.reset()
        self._faults["reset"] += len(chosen)
        return len(chosen)

    def _half_open(self, seconds: float, requests: bool, answers: bool) -> None:
        self._swallows = (requests, answers)
        for link in self._links:
            self._swallow(link)
        self._loop.call_later(seconds, self._heal)

    def _swallow(self, link: Link) -> None:
        if any(self._swallows):
            self._faults["half_open"] += 1
            link.swallows_requests, link.swallows_answers = self._swallows

    def _heal(self) -> None:
        self._swallows = (False, False)
        for link in list(self._links):
            if link.swallows_requests or link.swallows_answers:
                link.reset()

    def _counts(self) -> dict[str, int]:
        released = [late for late in self._late if late.phase is Phase.RELEASED]
        return dict(self._faults) | {
            "released": len(released),
            "late_obeyed": sum(late.answer == NO_ERROR for late in released),
            "late_refused": sum(late.answer not in (NO_ERROR, None) for late in released),
        }

    def _late_so_far(self) -> list[Late]:
        return [
            Late(late.request.transactional_id or "", late.is_commit, late.phase, late.answer) for late in self._late
        ]
