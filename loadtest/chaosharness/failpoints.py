"""Named places at which a service can be made to die, set into the runtime from outside, in the victim's process only.

A service that runs by itself has none of this: the package is not part of Tidemill's distribution, and nothing in the
services' configuration leads here. Armed by a file per process whose content is the failpoint's name, with ` stop`
behind it where the process shall only stand still there.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from chaosharness.journal import Journal
from tidemill.inference.shell import InferenceService
from tidemill.runtime import transaction
from tidemill.runtime.kafka.client import KafkaClient
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.loop import Loop
from tidemill.runtime.transaction import Step

AT_STEP: Mapping[Step, str] = {
    Step.POLLED: "after-poll",
    Step.ADDED: "after-add",
    Step.BEGUN: "after-begin",
    Step.OFFSETS_SENT: "after-send-offsets",
    Step.COMMITTED: "after-commit",
    Step.REWOUND: "after-rewind",
}
REWOUND = AT_STEP[Step.REWOUND]
FIRST_PRODUCE = "after-first-produce"
LAST_PRODUCE = "after-last-produce"
STATE = "after-state"
BEFORE_OFFSETS = "before-send-offsets"
IN_COMMIT = "in-commit"
MID_RESTORE = "mid-restore"
ON_REVOKE = "in-on-revoke"
MODEL_SWAP = "mid-model-swap"
IN_STREAM = (*AT_STEP.values(), FIRST_PRODUCE, LAST_PRODUCE, STATE, BEFORE_OFFSETS, IN_COMMIT)
"""Met by any service with a flowing stream (`after-rewind` once something was aborted, `after-state` with state)."""
FAILPOINTS = (*IN_STREAM, MID_RESTORE, ON_REVOKE, MODEL_SWAP)
STOP = "stop"
_A_JUMP_S = 60.0
_COMMIT_TAKES_S = 0.004
"""About: a kill falls somewhere within it."""


class Failpoints:
    """Dies at the armed one. Other threads may call `hit` as well."""

    def __init__(self, folder: Path, service: str, journal: Journal) -> None:
        self._armed = folder / "armed" / service
        self._journal = journal

    def hit(self, name: str) -> None:
        """If `name` is armed, SIGKILL this process, or SIGSTOP it until somebody continues it."""
        if (mode := self._armed_mode(name)) is not None:
            self._strike(name, mode)

    def hit_within(self, name: str, seconds: float) -> None:
        """The same, at a random moment within the next `seconds`, while the caller goes on."""
        if (mode := self._armed_mode(name)) is not None:
            threading.Thread(
                target=self._strike_later, args=(name, mode, seconds * random.random()), daemon=True
            ).start()

    def _armed_mode(self, name: str) -> str | None:
        try:
            with self._armed.open() as file:
                armed, _, mode = file.read().partition(" ")
        except FileNotFoundError:
            return None
        return mode if armed == name else None

    def _strike_later(self, name: str, mode: str, seconds: float) -> None:
        time.sleep(seconds)
        self._strike(name, mode)

    def _strike(self, name: str, mode: str) -> None:
        self._armed.unlink(missing_ok=True)
        if mode == STOP:
            self._journal.write("stop", name)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._journal.write("kill", name)
            os.kill(os.getpid(), signal.SIGKILL)


def install(points: Failpoints, journal: Journal) -> None:
    """Put failpoints and notes into the classes of the runtime. Call once, before the service is made."""
    _into_steps(points, journal)
    _into_produce(points)
    _into_producer(points, journal)
    _into_takeover(points)
    _around(InferenceService, "_route", after=lambda switch: switch[1] is not None and points.hit(MODEL_SWAP))


def _into_steps(points: Failpoints, journal: Journal) -> None:
    made, run = Loop.__init__, Loop.run
    committed = False
    ahead = time.time() - time.monotonic()

    def after_step(step: Step) -> None:
        nonlocal committed, ahead
        if step is Step.POLLED and abs(time.time() - time.monotonic() - ahead) > _A_JUMP_S:
            ahead = time.time() - time.monotonic()
            journal.write("clock")
        if step is Step.COMMITTED and not committed:
            committed = True
            journal.write("first_commit")
        elif step is Step.REWOUND:
            journal.write("rewind")
        if (name := AT_STEP.get(step)) is not None:
            points.hit(name)

    def init(self: Loop, *arguments: Any, **options: Any) -> None:
        nonlocal ahead
        ahead = time.time() - time.monotonic()
        made(self, *arguments, **options)
        self.after_step = after_step

    def joining(self: Loop, *arguments: Any) -> int:
        journal.write("joining", str(os.getppid()))
        return run(self, *arguments)

    Loop.__init__ = init  # type: ignore[method-assign]
    Loop.run = joining  # type: ignore[method-assign]


def _into_produce(points: Failpoints) -> None:
    everything = transaction._everything

    def watched(output: Any, spec: Any) -> Iterator[Any]:
        outputs, states = len(output.records), len(output.state)
        for number, record in enumerate(everything(output, spec), 1):
            yield record  # comes back once it is produced
            if number == 1:
                points.hit(FIRST_PRODUCE)
            if number == outputs:
                points.hit(LAST_PRODUCE)
            if states and number == outputs + states:
                points.hit(STATE)

    transaction._everything = watched


def _into_producer(points: Failpoints, journal: Journal) -> None:
    failed = TransactionalProducer._fail

    def fail(self: TransactionalProducer, exception: Any, doing: str) -> None:
        try:
            failed(self, exception, doing)
        except Exception as error:
            if any(word in str(error) for word in ("FENCED", "GENERATION", "UNKNOWN_MEMBER", "EPOCH")):
                journal.write("fence", str(error))
            raise

    TransactionalProducer._fail = fail  # type: ignore[assignment,method-assign]
    _around(TransactionalProducer, "send_offsets", before=lambda _: points.hit(BEFORE_OFFSETS))
    _around(TransactionalProducer, "commit", before=lambda _: points.hit_within(IN_COMMIT, _COMMIT_TAKES_S))
    _around(TransactionalProducer, "recycle", before=lambda _: journal.write("recycle"))
    _around(TransactionalProducer, "abort", before=lambda self: self._in_transaction and journal.write("abort"))


def _into_takeover(points: Failpoints) -> None:
    read = KafkaClient.read_changelog

    def read_changelog(
        self: KafkaClient,
        topic: str,
        partitions: Collection[int],
        progress: Callable[[int, int], None],
        keep_on: Callable[[], bool],
    ) -> dict[int, dict[bytes, bytes]]:
        def watched(done: int, total: int) -> None:
            points.hit(MID_RESTORE)
            progress(done, total)

        return read(self, topic, partitions, watched, keep_on)

    KafkaClient.read_changelog = read_changelog  # type: ignore[method-assign]
    _around(Loop, "_revoke_safely", after=lambda _: points.hit(ON_REVOKE))


def _around(
    owner: type,
    name: str,
    *,
    before: Callable[[Any], object] = lambda self: None,
    after: Callable[[Any], object] = lambda result: None,
) -> None:
    original = getattr(owner, name)

    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        before(self)
        result = original(self, *arguments, **options)
        after(result)
        return result

    setattr(owner, name, wrapped)
