"""Verification as a process: what was served since the last look is sampled, computed again, and counted."""

from collections.abc import Callable
from dataclasses import replace
from threading import Event

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.features.metrics import VerificationMetrics
from tidemill.features.offline.backfill import Request, Say
from tidemill.features.offline.topicinput import Connection
from tidemill.features.offline.verification import NothingServedError, Sample, Verdict, verify
from tidemill.runtime.health import Health
from tidemill.runtime.logs import get_logger

_BEAT_EVERY_S = 10.0
_log = get_logger("verification")


class _StoppedError(Exception):
    """The look under way is not wanted any more."""


def keep_verifying(
    request: Request,
    sample: Sample,
    connection: Connection,
    every_s: float,
    health: Health,
    say: Say,
    told: Callable[[Verdict], None],
    stop: Event,
) -> int:
    """Look, tell, wait `every_s`, until `stop` is set, in the middle of a look too; returns how many vectors differed.

    A look takes what was served since the last one, whatever its event time; the first takes all of `sample`. One that
    fails is made again after the wait. Raises TidemillError if the first one fails, for what is wrong with it may be
    the arguments.
    """
    metrics = VerificationMetrics(health.metrics)
    differing = 0

    def still_here(stage: str, records: int) -> None:
        health.beat()
        say(stage, records)
        if stop.is_set():
            raise _StoppedError

    while not stop.is_set():
        try:
            verdict = _look(request, sample, connection, still_here)
        except _StoppedError:
            break
        except TidemillError as error:
            if sample.behind is None:
                raise
            metrics.failed()
            health.set_ready(False)
            _log.warning("served vectors not verified", cause=error.message, next_step=error.hint)
        else:
            differing += verdict.differing
            metrics.looked(verified=verdict.compared, differing=verdict.differing, unrepeatable=verdict.unrepeatable)
            health.set_ready(True)
            told(verdict)
            sample = replace(sample, behind=verdict.ends)
        next_look = clock.monotonic() + every_s
        while (left := next_look - clock.monotonic()) > 0 and not stop.wait(min(left, _BEAT_EVERY_S)):
            health.beat()
    return differing


def _look(request: Request, sample: Sample, connection: Connection, say: Say) -> Verdict:
    try:
        return verify(request, sample, connection, say)
    except NothingServedError as nothing:
        return nothing.verdict
