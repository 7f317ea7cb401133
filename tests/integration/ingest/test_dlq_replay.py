"""`tidemill dlq replay` on a real broker: what ingest refused goes back once repaired, each record exactly once."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from support.brokers import read_all, soon
from support.polling import eventually
from tidemill.runtime.dlq import ADDRESSEE, ATTEMPT
from tidemill.runtime.kafka import Admin, PlainProducer
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.settings import writing_settings
from tidemill.runtime.letters import read_letter
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.ports import AbortedError, ProducerLostError
from tidemill.runtime.reinjection import Places, marker
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import apply, plan
from unit.ingest.samples import PAYMENT

pytestmark = pytest.mark.kafka

AT = 1_522_540_831_500
TRACE = ("trace", b"\x00\x01")
WITHIN_S = 60.0
ROLES = ("raw-payments", "events", "dlq", "dlq-replays")


class Ground:
    """A pipeline of its own that refuses amounts above 100 until it is repaired."""

    def __init__(self, servers: str, name: str, folder: Path) -> None:
        self.servers, self.name, self._folder = servers, name, folder
        text, _ = pipeline_text("fraud")
        self._text = re.sub(r"(?m)^name: fraud$", f"name: {name}", text).replace("fraud-raw-", f"{name}-raw-")
        self.file = folder / "pipeline.yaml"
        self.allow_amounts_up_to(100)
        apply(Admin(servers), plan(parse_pipeline(self._text)))

    def allow_amounts_up_to(self, most: int) -> None:
        field = "amount: {from: amount, cast: number, min: 0, max: 100000}"
        assert field in self._text
        self.file.write_text(self._text.replace(field, field.replace("100000", str(most))), encoding="utf-8")

    def send(self, count: int, amount: float) -> None:
        producer = PlainProducer(self.servers)
        for number in range(count):
            value = orjson.dumps(PAYMENT | {"payment_id": f"p-{amount:g}-{number}", "amount": amount})
            key = b"their-%d" % number if number % 2 else None
            producer.send(
                OutRecord(f"{self.name}-raw-payments", key, value, AT + number, number % 4, (TRACE,))
            )  # fmt: skip
        producer.flush(WITHIN_S)

    def read(self, role: str) -> list[Record]:
        return read_all(self.servers, f"{self.name}-{role}")

    def await_count(self, role: str, count: int) -> list[Record]:
        found = eventually(lambda: len(records := self.read(role)) >= count and records, within_s=WITHIN_S)
        assert len(found) == count
        return found

    def ends(self) -> dict[str, int]:
        return {role: len(self.read(role)) for role in ROLES}

    @contextmanager
    def ingest(self) -> Iterator[None]:
        environment = os.environ | {
            "TIDEMILL_BOOTSTRAP_SERVERS": self.servers,
            "TIDEMILL_PIPELINE": str(self.file),
            "TIDEMILL_DATA_DIR": str(self._folder / "data"),
        }
        with (self._folder / "ingest.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "tidemill.ingest"], env=environment, stderr=log)
            try:
                yield
                process.send_signal(signal.SIGTERM)
                assert process.wait(WITHIN_S) == 0, (self._folder / "ingest.log").read_text()
            finally:
                process.kill()
                process.wait()

    def command(self, *options: str) -> list[str]:
        whole = ["dlq", "replay", str(self.file), "--bootstrap-servers", self.servers, "--json", *options]
        return [sys.executable, "-m", "tidemill.cli", *whole]

    def replay(self, *options: str, code: int = 0) -> dict[str, Any]:
        ended = subprocess.run(
            self.command(*options), capture_output=True, timeout=WITHIN_S, check=False, stdin=subprocess.DEVNULL
        )
        assert ended.returncode == code, ended.stderr.decode()
        return json.loads(ended.stdout)


@pytest.fixture
def ground(kafka: str, unique: str, tmp_path: Path) -> Ground:
    return Ground(kafka, unique, tmp_path)


def amounts(events: list[Record]) -> Counter[str]:
    return Counter(orjson.loads(event.value or b"")["id"] for event in events)


def test_what_was_refused_goes_back_once_it_is_repaired_and_is_answered_exactly_once(ground: Ground) -> None:
    ground.send(20, 50)
    ground.send(30, 500)
    with ground.ingest():
        ground.await_count("dlq", 30)
        ground.await_count("events", 20)
    raw = ground.read("raw-payments")

    before = ground.ends()
    report = ground.replay("--code", "out_of_range")
    assert (report["dry_run"], report["replay"], report["by_code"]) == (True, 30, {"out_of_range": 30})
    assert report["by_topic"] == {f"{ground.name}-raw-payments": 30}
    assert ground.ends() == before, "a dry run writes nothing"

    ground.allow_amounts_up_to(100_000)
    assert ground.replay("--code", "out_of_range", "--limit", "12", "--yes")["replay"] == 12
    assert ground.replay("--code", "not_json", "--yes")["replay"] == 0
    assert ground.replay("--rate", "40", "--yes")["replay"] == 18
    again = ground.replay("--yes")
    assert (again["replay"], again["replayed_before"]) == (0, 30)

    refused = [record for record in raw if b'"amount":500' in (record.value or b"")]
    back = ground.read("raw-payments")[:]
    for record in raw:
        back.remove(record)
    assert sorted((r.partition, r.timestamp, r.key or b"", r.value, r.headers[0]) for r in back) == sorted(
        (r.partition, r.timestamp, r.key or b"", r.value, TRACE) for r in refused
    )
    address = (ADDRESSEE, f"{ground.name}-ingest".encode())
    assert {record.headers[1:] for record in back} == {((ATTEMPT, b"1"), address)}

    with ground.ingest():
        events = ground.await_count("events", 50)
    assert set(amounts(events).values()) == {1}
    assert len(ground.read("dlq")) == 30
    assert len(ground.read("dlq-replays")) == 30


def test_killed_in_the_middle_the_same_command_does_the_rest_and_repeats_nothing(ground: Ground) -> None:
    ground.send(60, 500)
    with ground.ingest():
        ground.await_count("dlq", 60)
    for _ in range(3):
        before = len(ground.read("dlq-replays"))
        process = subprocess.Popen(ground.command("--yes", "--rate", "15"), stdout=subprocess.DEVNULL)
        try:
            eventually(lambda before=before: len(ground.read("dlq-replays")) > before, within_s=WITHIN_S)
        finally:
            process.kill()
            process.wait()
    done = len(ground.read("dlq-replays"))
    assert 3 <= done < 60, "each kill fell into the middle"
    report = ground.replay("--yes")
    assert (report["replay"], report["replayed_before"]) == (60 - done, done)
    values = Counter(record.value for record in ground.read("raw-payments"))
    assert len(values) == 60 and set(values.values()) == {2}, "the original and what was put back"
    ground.allow_amounts_up_to(100_000)
    with ground.ingest():
        events = ground.await_count("events", 60)
    assert set(amounts(events).values()) == {1}


def test_what_a_killed_run_left_in_an_open_transaction_is_gone(ground: Ground) -> None:
    ground.send(3, 500)
    with ground.ingest():
        ground.await_count("dlq", 3)
    killed = TransactionalProducer(writing_settings(ground.servers, {}), f"{ground.name}-dlq-replays")
    killed.start()
    killed.begin()
    places = Places(ground.name, {f"{ground.name}-raw-payments": frozenset({"ingest"})}, {})
    letters = [letter for letter in map(read_letter, ground.read("dlq")) if letter is not None]
    killed.produce(places.record(letter) for letter in letters)
    killed.produce(marker(letter, f"{ground.name}-dlq-replays", 1) for letter in letters)
    payments = f"{ground.name}-raw-payments"
    eventually(lambda: len(read_all(ground.servers, payments, committed=False)) == 6, within_s=WITHIN_S)
    assert ground.replay()["replay"] == 3, "a look waits for nobody, and believes nothing that is not committed"
    assert ground.replay("--yes")["replay"] == 3
    with pytest.raises((AbortedError, ProducerLostError)):
        killed.commit(soon())
    killed.close()
    assert len(ground.read("raw-payments")) == 6
    assert len(read_all(ground.servers, payments, committed=False)) == 9


def test_a_record_without_a_date_of_its_own_is_put_back_with_one(ground: Ground) -> None:
    """What the client makes of a timestamp of 0; services/README.md says so."""
    PlainProducer(ground.servers).send(OutRecord(f"{ground.name}-raw-payments", b"k", b"bad", 0, 0))
    (record,) = ground.await_count("raw-payments", 1)
    assert record.timestamp > AT


def test_two_at_once_put_each_letter_back_once_and_the_earlier_one_says_that_it_stopped(ground: Ground) -> None:
    ground.send(60, 500)
    with ground.ingest():
        ground.await_count("dlq", 60)
    slow = subprocess.Popen(
        ground.command("--yes", "--rate", "5"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )  # fmt: skip
    try:
        eventually(lambda: len(ground.read("dlq-replays")) > 0, within_s=WITHIN_S)
        assert ground.replay("--yes")["replay"] > 0
        _, said = slow.communicate(timeout=WITHIN_S)
    finally:
        slow.kill()
        slow.wait()
    assert slow.returncode == 1
    assert b"run the same command again" in said
    values = Counter(record.value for record in ground.read("raw-payments"))
    assert len(values) == 60 and set(values.values()) == {2}


def test_what_dies_again_is_counted_and_left_after_so_many_attempts(ground: Ground) -> None:
    ground.send(3, 500)
    for attempt in (1, 2):
        with ground.ingest():
            ground.await_count("dlq", 3 * attempt)
        assert ground.replay("--yes", "--max-attempts", "2")["replay"] == 3
    with ground.ingest():
        letters = ground.await_count("dlq", 9)
    assert sorted(dict(letter.headers).get(ATTEMPT, b"0") for letter in letters) == [b"0"] * 3 + [b"1"] * 3 + [b"2"] * 3
    report = ground.replay("--yes", "--max-attempts", "2", code=1)
    assert (report["replay"], report["too_many_attempts"], report["replayed_before"]) == (0, 3, 6)
    assert {one["why"] for one in report["held_back"]} == {"too_many_attempts"}


def test_a_repaired_value_goes_in_the_place_of_the_bad_one(ground: Ground, tmp_path: Path) -> None:
    ground.send(2, 500)
    with ground.ingest():
        letter, other = ground.await_count("dlq", 2)
    file = tmp_path / "record.bin"
    file.write_bytes((letter.value or b"").replace(b":500", b":5"))
    where = f"{letter.partition}:{letter.offset}"
    assert ground.replay("--position", where, "--value-file", str(file), "--yes")["replay"] == 1
    with ground.ingest():
        (event,) = ground.await_count("events", 1)
    assert orjson.loads(event.value or b"")["amount"] == 5
    left = ground.replay()
    assert (left["replay"], left["replayed_before"]) == (1, 1)
    assert other.value is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--position", "7"], "'7' is no position"),
        (["--from", "2018-02-01", "--until", "2018-01-01"], "--from is not before --until"),
        (["--value-file", "x"], "replaces the value of one letter"),
        (["--position", "0:99", "--value-file", __file__], "no dead letter at"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_next_step(ground: Ground, options: list[str], said: str) -> None:
    ended = subprocess.run(ground.command(*options), capture_output=True, timeout=WITHIN_S, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr.decode() and "hint: " in ended.stderr.decode()
