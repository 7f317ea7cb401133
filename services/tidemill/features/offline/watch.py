"""Verification as a process: what was served since the last look is sampled, computed again, and counted."""

from collections.abc import Callable
from dataclasses import replace
from threading import Event

from tidemill import clock
from tidemill.features.metrics import VerificationMetrics
from tidemill.features.offline.backfill import Request, Say
from tidemill.features.offline.topicinput import Connection
from tidemill.features.offline.verification import NothingServedError, Sample, Verdict, verify
from tidemill.runtime.health import Health

_BEAT_EVERY_S = 10.0
NOTHING_NEW = Verdict(0, 0, 0, 0, ())


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
    """Look, tell, wait `every_s`, until `stop` is set; returns how many vectors differed in all.

    A look takes the vectors with a newer event time than the last one saw; the first takes those of `sample`.
    """
    metrics = VerificationMetrics(health.metrics)
    differing = 0

    def still_here(stage: str, records: int) -> None:
        health.beat()
        say(stage, records)

    while not stop.is_set():
        try:
            verdict = verify(request, sample, connection, still_here)
        except NothingServedError:
            verdict = NOTHING_NEW
        differing += verdict.differing
        metrics.looked(verified=verdict.sampled, differing=verdict.differing)
        health.set_ready(True)
        told(verdict)
        if verdict.served:
            sample = replace(sample, since=verdict.newest + 1)
        next_look = clock.monotonic() + every_s
        while (left := next_look - clock.monotonic()) > 0 and not stop.wait(min(left, _BEAT_EVERY_S)):
            health.beat()
    return differing
