"""The Faust application: an agent on the drift topic, one on manual requests, a timer that only ticks, and a table.

Faust delivers and keeps time; nothing of it is trusted with the truth. It is at-least-once (never its exactly_once),
which is enough because folding a record twice changes nothing and decisions have deterministic ids. The topic has one
partition, so one instance at a time is active; it reads the journal anew each time the partition comes to it.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import faust
from faust.types import TP

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import TidemillError
from tidemill.retrain.broker import broker_url, credentials
from tidemill.retrain.committed import read_committed
from tidemill.retrain.config import RetrainConfig
from tidemill.retrain.core.policy import ManualRequest
from tidemill.retrain.core.records import Decision
from tidemill.retrain.shell import LearningLoop

STATE_ROLE = "retrain-state"
"""Topic role of the table's changelog: compacted, one partition like the drift topic."""
_STATE_KEY = "loop"
_SESSION_TIMEOUT_S = 15.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ManualCall:
    """A request on its way to its agent; `answer` gets the decisions that it led to."""

    request: ManualRequest
    answer: asyncio.Future[list[Decision]]


class Owner(Protocol):
    """The process around the app."""

    async def activate(self) -> LearningLoop:
        """This instance is to decide from now on: a loop that starts from the journal as it is now."""
        ...

    def standby(self) -> None:
        """Another instance decides from now on."""
        ...

    def tick(self) -> None:
        """The event loop still turns."""
        ...


class RetrainApp:
    """One Faust app around the learning loop that its owner makes. Lives in one event loop.

    `failure` gets the first error of an agent or of the loop; the app is of no use after that and must be stopped.
    """

    def __init__(self, config: RetrainConfig, pipeline: Pipeline, owner: Owner, http_port: int) -> None:
        self.loop: LearningLoop | None = None
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.faust = _faust_app(config, pipeline, http_port)
        self._owner = owner
        self._work: asyncio.Task[None] | None = None
        self._drift = TP(pipeline.topic("drift"), 0)
        self._calls = self.faust.channel()
        # The cache of what the loop is at, for people; the loop itself starts from the topics.
        self._table = self.faust.Table(
            "loop", partitions=1, changelog_topic=self.faust.topic(pipeline.topic(STATE_ROLE), partitions=1)
        )
        self._wire(config.tick_s)

    async def ask(self, request: ManualRequest) -> list[Decision]:
        """Hand a manual request to its agent; returns once its decisions are recorded. Raises TidemillError."""
        answer: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        await self._calls.send(value=ManualCall(request, answer))
        return await answer

    def view(self) -> dict[str, Any]:
        """The loop's state, or the last one that the table holds while another instance is active."""
        if self.loop is not None:
            return {"active": True, **self.loop.view()}
        return {"active": False, **(self._table.get(_STATE_KEY) or {})}

    async def stop(self) -> None:
        """Leave the group and end the loop; a job that runs is cut off and done again after the next start."""
        await self._deactivate()
        await self.faust.stop()

    def _wire(self, tick_s: float) -> None:
        drift = self.faust.topic(self._drift.topic, key_serializer="raw", value_serializer="raw")
        self.faust.agent(drift, name="drift", concurrency=1)(self._take_drift)
        self.faust.agent(self._calls, name="manual", concurrency=1)(self._take_calls)
        self.faust.timer(tick_s)(self._tick)
        self.faust.on_partitions_assigned.connect(self._assigned)
        self.faust.on_partitions_revoked.connect(self._revoked)

    async def _take_drift(self, stream: Any) -> None:
        async for event in stream.events():
            if self.loop is not None:
                await self._guarded(self.loop.take(event.value, event.message.offset))
                self._table[_STATE_KEY] = self.loop.view()

    async def _take_calls(self, stream: Any) -> None:
        async for call in stream:
            if self.loop is None:
                call.answer.set_exception(TidemillError("this instance does not own the drift topic's partition"))
            else:
                call.answer.set_result(await self._guarded(self.loop.step(call.request)))

    async def _tick(self) -> None:
        self._owner.tick()
        if self.loop is not None:
            self.loop.tick()

    async def _assigned(self, *arguments: Any, **_: Any) -> None:
        """Signal handler; the second argument is the set of partitions that this member now has."""
        if self._drift not in arguments[1]:
            self._owner.standby()
        elif self.loop is None:
            self.loop = await self._owner.activate()
            self._work = asyncio.create_task(self.loop.work(), name="learning loop")
            self._work.add_done_callback(self._loop_ended)

    async def _revoked(self, *arguments: Any, **_: Any) -> None:
        if self._drift in arguments[1]:
            await self._deactivate()

    async def _deactivate(self) -> None:
        work, self._work, self.loop = self._work, None, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])

    def _loop_ended(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled():
            self._fail(work.exception() or RuntimeError("the learning loop ended by itself"))

    async def _guarded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. An error stops the process: left to itself Faust would restart the agent and skip the record."""
        task = asyncio.create_task(coroutine)
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
        return task.result()

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)


def _faust_app(config: RetrainConfig, pipeline: Pipeline, http_port: int) -> faust.App:
    """Topics exist already and none is ever declared; the web server is the process' only one."""
    app = faust.App(
        pipeline.topic("retrain"),
        broker=broker_url(config.bootstrap_servers),
        broker_credentials=credentials(config.kafka_options),
        datadir=str(config.data_dir / "faust"),
        store="memory://",
        autodiscover=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=1,
        consumer_auto_offset_reset="earliest",
        # A restart after a kill takes its partition back at once instead of waiting for its own session to expire.
        # Faust demands that a member's URL stays the same, too; it only routes table requests, of which there are none.
        canonical_url=f"http://{pipeline.topic('retrain')}-{config.instance}",
        consumer_group_instance_id=f"{pipeline.topic('retrain')}-{config.instance}",
        broker_session_timeout=_SESSION_TIMEOUT_S,
        # A rebalance must not wait for a record that is being acted on: it is delivered again.
        stream_wait_empty=False,
        web_bind=config.http_host,
        web_port=http_port,
    )
    return read_committed(app)
