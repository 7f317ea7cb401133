"""`tidemill up` as a user runs it, and what the other commands say about it: status, dlq, a killed service, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.polling import eventually
from tidemill.local.scrape import read_endpoints
from tidemill.runtime.kafka import PlainProducer, TopicReader
from tidemill.runtime.service import OutRecord

pytestmark = [pytest.mark.system, pytest.mark.kafka, pytest.mark.timeout(600)]

ENVIRONMENT = {**os.environ, "NO_COLOR": "1"}
NOT_JSON = b'{"v": 1, "payment_id": \xff'


def tidemill(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tidemill.cli", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, env=ENVIRONMENT, check=False)


@dataclass
class Running:
    """A started `tidemill up` and what it printed when everything was ready."""

    process: subprocess.Popen[str]
    folder: Path
    said: dict[str, Any]

    @property
    def servers(self) -> str:
        return str(self.said["bootstrap_servers"])

    def pid_of(self, service: str) -> int | None:
        """None while it has not announced itself."""
        known = read_endpoints(self.folder / "logs")
        return next((endpoint.pid for endpoint in known if endpoint.service == service), None)

    def status(self) -> tuple[int, dict[str, Any]]:
        done = tidemill("status", "--data-dir", str(self.folder), "--json")
        return done.returncode, json.loads(done.stdout)


def start(folder: Path, *options: str) -> Running:
    command = [sys.executable, "-m", "tidemill.cli", "up", "fraud", "--json", "--data-dir", str(folder), *options]
    log = folder.with_suffix(".stderr")
    with log.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, log.read_text()
    return Running(process, folder, json.loads(line))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    up = start(tmp_path / "data", "--rate", "50")
    yield up
    if up.process.poll() is None:
        up.process.send_signal(signal.SIGINT)
    up.process.communicate(timeout=120)


def post(url: str, event: dict[str, object]) -> int:
    request = urllib.request.Request(url, json.dumps(event).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_up_serves_shows_its_dead_letters_outlives_a_kill_and_drains(running: Running) -> None:
    said = running.said
    assert said["prediction"]["status"] == "no_model"
    assert {"fraud-events", "fraud-predictions", "fraud-dlq"} <= set(said["topics"])
    assert set(said["urls"]) == {
        "ingest",
        "features-customer",
        "features-terminal",
        "features-outcomes",
        "inference",
        "drift",
        "retrain",
    }
    code, status = running.status()
    assert (code, status["healthy"], len(status["stages"])) == (0, True, 7)

    # an event over HTTP becomes a prediction
    paid_at = int(said["prediction"]["event_time"])
    event = {"v": 1, "payment_id": "p-by-http", "paid_at_ms": paid_at, "card": "c-1", "terminal": "t-1", "amount": 9.5}
    sources = said["urls"]["ingest"] + "/v1/events/card-payments"
    assert post(sources, {name: value for name, value in event.items() if name != "payment_id"}) == 400
    assert post(sources, event) == 202
    reader = TopicReader(running.servers, ["fraud-predictions"])
    eventually(lambda: any(b'"p-by-http"' in (record.value or b"") for record in reader.poll()), within_s=60)
    reader.close()

    # bytes that are no JSON are found again as they were, with their reason
    producer = PlainProducer(running.servers)
    producer.send(OutRecord("fraud-raw-payments", b"not-simulated", NOT_JSON, paid_at))
    producer.flush(30)
    producer.close()

    where = ("--bootstrap-servers", running.servers)

    def ours() -> list[dict[str, Any]]:
        listing = tidemill("dlq", "ls", "fraud", "--json", "--code", "not_json", "--limit", "1000", *where)
        assert listing.returncode == 0, listing.stderr
        found = json.loads(listing.stdout)
        assert found["by_code"] in ({}, {"not_json": found["total"]})
        return [letter for letter in found["records"] if letter["key"] == "not-simulated"]

    (letter,) = eventually(ours, within_s=60)
    assert tidemill("dlq", "show", "fraud", letter["position"], "--raw", *where).stdout == NOT_JSON
    shown = json.loads(tidemill("dlq", "show", "fraud", letter["position"], "--json", *where).stdout)
    assert shown["code"] == "not_json"
    nowhere = tidemill("dlq", "show", "fraud", "0:999999", *where)
    assert (nowhere.returncode, b"no dead letter at 0:999999" in nowhere.stderr) == (2, True)

    # a killed service comes back by itself
    victim = running.pid_of("inference")
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: running.pid_of("inference") not in (None, victim), within_s=60)
    eventually(lambda: running.status()[0] == 0, within_s=90)
    reader = TopicReader(running.servers, ["fraud-predictions"], start="latest")
    eventually(lambda: reader.poll(), within_s=60)
    reader.close()

    running.process.send_signal(signal.SIGINT)
    running.process.communicate(timeout=120)
    assert running.process.returncode == 0
    code, status = running.status()
    assert (code, status["healthy"]) == (1, False), "nothing answers any more"


def test_dlq_without_a_kafka_says_how_to_name_one() -> None:
    done = tidemill("dlq", "ls", "fraud")
    assert done.returncode == 2
    assert b"--bootstrap-servers" in done.stderr


def test_status_of_a_folder_without_services_says_how_to_start_them(tmp_path: Path) -> None:
    done = tidemill("status", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert b"tidemill up fraud" in done.stderr
