"""One request that the network keeps back and delivers too late: inside the *next* transaction of its producer.

    HELD      the request was taken from the client's connection; the client hears nothing
    MOVED_ON  the client has ended that transaction by asking again, or by a new epoch
    RELEASED  it reached the broker, on a connection of its own, while the next transaction was open

"Inside" is made certain, not likely: the request leaves when the broker has answered the next transaction's first
Produce, and if that transaction wants to end, its EndTxn waits until the late one has been answered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from chaosharness.wire import Api, Request, commits, error_code

NO_ERROR = 0

Deliver = Callable[[bytes], Awaitable[bytes]]
"""Sends a frame to the broker on a new connection and returns the answer's frame. Raises OSError or TimeoutError."""


class Phase(Enum):
    HELD = "held"
    MOVED_ON = "moved on"
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"


OVER = frozenset({Phase.RELEASED, Phase.FAILED})


class LateRequest:
    """Follows one producer, by its transactional id, from the held request to its release. Event-loop thread only."""

    def __init__(self, request: Request, deliver: Deliver) -> None:
        self.request = request
        self.phase = Phase.HELD
        self.answer: int | None = None
        """The broker's error code for the late request (0: it was obeyed), where its answer has one."""
        self._deliver = deliver
        self._release: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self.phase in OVER

    @property
    def is_commit(self) -> bool:
        return self.request.api == Api.END_TXN and commits(self.request)

    async def before(self, request: Request) -> None:
        """The same producer asks something. Returns once that may go on to the broker."""
        if request.api == Api.END_TXN and self.phase is not Phase.HELD:
            await self._released()

    def answered(self, request: Request, response: bytes) -> None:
        """The broker answers something to the same producer."""
        if self.phase is Phase.HELD:
            ends = request.api in (Api.END_TXN, Api.INIT_PRODUCER_ID)
            if ends and error_code(request, response) == NO_ERROR:
                self.phase = Phase.MOVED_ON
        elif self.phase is Phase.MOVED_ON and request.api == Api.PRODUCE:
            self._begin_release()

    def _begin_release(self) -> asyncio.Task[None]:
        if self._release is None:
            self.phase = Phase.RELEASING
            self._release = asyncio.get_running_loop().create_task(self._send())
        return self._release

    async def _released(self) -> None:
        await asyncio.shield(self._begin_release())

    async def _send(self) -> None:
        try:
            response = await self._deliver(self.request.frame)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.phase = Phase.FAILED
            return
        if self.request.api in (Api.END_TXN, Api.INIT_PRODUCER_ID):
            self.answer = error_code(self.request, response)
        self.phase = Phase.RELEASED
