"""The producer: every record once, on its schedule, with the moment it was due."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tidemill import clock
from tidemill.domain.durations import DAY_MS
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord
from tidemill.scenarios import catalog
from tidemill.scenarios.fraud import producer, producerrun
from tidemill.scenarios.fraud.producerconfig import ProducerConfig, load_producer_config
from tidemill.scenarios.fraud.producerrun import SENT_HEADER, Run, Summary, source_topic, start_ms
from tidemill.scenarios.fraud.simulator import EPOCH_MS

WORLD = {"customers": 300, "terminals": 1_000, "seed": 1, "bad_share": 0.05}
PIPELINE = load_pipeline("fraud")


class Clock:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 1_700_000_000_000


class Ledger:
    """A sender that keeps what it is given and when; `stop_after` sets the stop flag in mid-stream."""

    def __init__(self, clock: Clock, stop: "Waiter", stop_after: int | None = None) -> None:
        self.records: list[tuple[float, OutRecord]] = []
        self.flushed = 0
        self._clock, self._stop, self._stop_after = clock, stop, stop_after

    def send(self, record: OutRecord) -> None:
        self.records.append((self._clock.now, record))
        if len(self.records) == self._stop_after:
            self._stop.set()

    def poll(self) -> int:
        return 0

    def flush(self, timeout_s: float) -> None:
        self.flushed = len(self.records)


class Waiter(Event):
    """An event whose waiting is the passing of time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.now += timeout or 0.0
        return self.is_set()


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producerrun, "default_cache_dir", lambda: None)


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr(clock, "monotonic", fake.monotonic)
    monkeypatch.setattr(clock, "wall_ms", fake.wall_ms)
    return fake


def config(**changes: object) -> ProducerConfig:
    return ProducerConfig.model_validate({**WORLD, "days": 3, **changes})


def run(settings: ProducerConfig, fake: Clock, stop_after: int | None = None) -> tuple[Summary, Ledger]:
    stop = Waiter(fake)
    ledger = Ledger(fake, stop, stop_after)
    summary = Run(settings, PIPELINE, ledger, stop, lambda message: None).send(start_ms(settings))
    return summary, ledger


def test_everything_is_sent_flushed_and_summed_up(fake_clock: Clock) -> None:
    summary, ledger = run(config(days_per_minute=0), fake_clock)
    assert summary.complete
    assert ledger.flushed == len(ledger.records) == summary.payments + summary.chargebacks + sum(summary.bad.values())
    topics = [record.topic for _, record in ledger.records]
    assert topics.count("fraud-raw-chargebacks") == summary.chargebacks
    assert topics.count("fraud-raw-payments") == summary.payments + sum(summary.bad.values())
    assert sum(summary.dead_letters.values()) + summary.duplicates == sum(summary.bad.values())


def test_stream_time_sets_the_pace_and_the_header_says_when_a_record_was_due(fake_clock: Clock) -> None:
    _, ledger = run(config(days_per_minute=6, tick_ms=20), fake_clock)
    for sent, record in ledger.records:
        due_s = (record.timestamp - EPOCH_MS) / DAY_MS * 10
        assert 100.0 + due_s <= sent + 1e-9
        assert sent <= 100.0 + due_s + 0.021
        ((name, moment),) = record.headers
        assert name == SENT_HEADER
        assert float(moment) == pytest.approx(1_700_000_000_000 + due_s * 1_000, abs=0.01)


def test_a_rate_spaces_payments_evenly(fake_clock: Clock) -> None:
    summary, ledger = run(config(rate=200.0, bad_share=0.0), fake_clock)
    payments = [sent for sent, record in ledger.records if record.topic == "fraud-raw-payments"]
    assert payments[-1] - payments[0] == pytest.approx((summary.payments - 1) / 200.0, abs=0.02)


def test_when_stopped_it_accounts_for_exactly_what_was_sent(fake_clock: Clock) -> None:
    summary, ledger = run(config(days_per_minute=6), fake_clock, stop_after=500)
    assert not summary.complete
    assert 500 <= ledger.flushed == len(ledger.records) < 520
    assert summary.payments + summary.chargebacks + sum(summary.bad.values()) == len(ledger.records)
    assert summary.stream_until_ms == ledger.records[-1][1].timestamp


def test_an_endless_stream_goes_on_past_its_first_part(fake_clock: Clock) -> None:
    whole, _ = run(config(days=28, days_per_minute=0), fake_clock)
    first_part = whole.payments + whole.chargebacks + sum(whole.bad.values())
    endless, ledger = run(config(endless=True, days_per_minute=0), fake_clock, stop_after=first_part + 3_000)
    assert not endless.complete
    times = [record.timestamp for _, record in ledger.records]
    assert times == sorted(times)
    ids = [json.loads(r.value)["payment_id"] for _, r in ledger.records if r.topic.endswith("chargebacks")]
    assert len(ids) == len(set(ids)) == endless.chargebacks > whole.chargebacks


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_SEED", "5")
    monkeypatch.setenv("TIDEMILL_CUSTOMERS", "77")
    settings = load_producer_config(["--seed=6", "--days-per-minute", "0", "--endless=true"])
    assert (settings.seed, settings.customers, settings.days_per_minute, settings.endless) == (6, 77, 0.0, True)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)days.*customers") as refusal:
        load_producer_config(["--days=0", "--customers=-3"])
    assert refusal.value.exit_code == 2


def test_a_pipeline_without_a_topic_to_stream_to_is_refused(fake_clock: Clock) -> None:
    http_only = [source.model_copy(update={"topic": None}) for source in PIPELINE.ingest.sources]
    pipeline = PIPELINE.model_copy(update={"ingest": PIPELINE.ingest.model_copy(update={"sources": tuple(http_only)})})
    with pytest.raises(ConfigurationError, match="no source of kind event"):
        source_topic(pipeline, "event")


def test_the_catalog_gives_the_producers_command_line() -> None:
    command = catalog.get("fraud").producer_command({"days_per_minute": 25.0, "endless": True, "seed": 3})
    module, *options = command[command.index("-m") + 1 :]
    settings = load_producer_config(options)
    assert module == producer.__name__
    assert (settings.days_per_minute, settings.endless, settings.seed) == (25.0, True, 3)


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no scenario called 'weather'") as refusal:
        catalog.get("weather")
    assert "fraud" in refusal.value.hint


def test_the_summary_is_written_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_clock: Clock
) -> None:
    summary, _ = run(config(days=1, days_per_minute=0), fake_clock)
    monkeypatch.setattr(producer, "_run", lambda *arguments: summary)
    monkeypatch.setattr(producer.signal, "signal", lambda *arguments: None)
    file = tmp_path / "summary.json"
    assert producer.main([f"--summary-file={file}"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(file.read_text())
    assert json.loads(file.read_text())["payments"] == summary.payments
