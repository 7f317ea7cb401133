"""Verification as a process: what each look starts from, and what a look that fails means."""

from collections.abc import Callable
from dataclasses import replace
from threading import Event

import pytest
from prometheus_client import generate_latest

from tidemill.errors import TidemillError
from tidemill.features.metrics import VERIFICATION
from tidemill.features.offline import watch
from tidemill.features.offline.backfill import Request
from tidemill.features.offline.topicinput import Connection
from tidemill.features.offline.verification import NothingServedError, Sample, Verdict
from tidemill.runtime.health import Health
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline

FRAUD = load_pipeline("fraud")
WANTED = Sample("fraud-features", 10, since=1_700_000_000_000)
FOUND = Verdict(served=9, other=0, unreadable=0, sampled=9, mismatches=(), unrepeatable=2)
DOWN = TidemillError("asking for watermarks: Kafka says _TRANSPORT", hint="check that Kafka runs")


class Looks:
    """Stands for `verify`: gives or raises one outcome a look, then asks to stop."""

    def __init__(self, *outcomes: Verdict | TidemillError) -> None:
        self._outcomes = list(outcomes)
        self.samples: list[Sample] = []
        self.ready: list[bool] = []
        self.told: list[Verdict] = []
        self.stop = Event()
        self.health = Health("verification", Metrics({"pipeline": "fraud", "service": "verification"}, VERIFICATION))

    def __call__(self, request: Request, sample: Sample, connection: Connection, say: Callable[..., None]) -> Verdict:
        self.samples.append(sample)
        self.ready.append(self.health.ready)
        outcome = self._outcomes.pop(0)
        if not self._outcomes:
            self.stop.set()
            say("customer", 1)
        if isinstance(outcome, TidemillError):
            raise outcome
        return outcome

    def run(self, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr(watch, "verify", self)
        arguments = (Request(FRAUD), WANTED, Connection("localhost:1"), 0.0, self.health)
        return watch.keep_verifying(*arguments, lambda *_: None, self.told.append, self.stop)

    @property
    def metrics(self) -> dict[str, float]:
        lines = generate_latest(self.health.registry).decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name.partition("{")[0]: float(value) for name, value in pairs}


def test_a_look_begins_where_the_last_one_ended_whatever_the_event_times(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = {("fraud-features", 0): 20}, {("fraud-features", 0): 31}
    nothing = NothingServedError(Verdict(0, 0, 0, 0, (), ends=second), "nothing", hint="")
    looks = Looks(replace(FOUND, ends=first), nothing, FOUND)
    looks.run(monkeypatch)
    assert [look.behind for look in looks.samples] == [None, first, second]
    assert {look.since for look in looks.samples} == {WANTED.since}


def test_a_look_that_fails_is_made_again_and_the_process_is_not_ready_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = {("fraud-features", 0): 20}
    looks = Looks(replace(FOUND, ends=ends), DOWN, DOWN, FOUND, FOUND)
    looks.run(monkeypatch)
    assert [look.behind for look in looks.samples[:4]] == [None, ends, ends, ends]
    assert looks.ready == [False, True, False, False, True]
    assert len(looks.told) == 2
    assert looks.metrics["tidemill_features_failed_looks_total"] == 2


def test_the_first_look_may_fail_for_its_arguments_and_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TidemillError, match="_TRANSPORT"):
        Looks(DOWN, FOUND).run(monkeypatch)


def test_what_cannot_be_repeated_is_counted_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(replace(FOUND, ends={("fraud-features", 0): 20}), FOUND)
    assert looks.run(monkeypatch) == 0
    assert looks.metrics["tidemill_features_verified_total"] == 7
    assert looks.metrics["tidemill_features_unrepeatable_total"] == 2


def test_a_look_under_way_ends_when_the_process_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(FOUND)
    looks.run(monkeypatch)
    assert (len(looks.samples), looks.told) == (1, [])
