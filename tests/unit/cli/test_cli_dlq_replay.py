"""`tidemill dlq replay` without a Kafka: what it asks, shows and answers. What it writes is tested on a real one."""

import json
import sys

import pytest
import typer

from support.lettertopics import LetterTopics, Producer
from tidemill.cli.__main__ import main
from tidemill.runtime import kafka
from tidemill.runtime.service import Record


class Ground:
    """Three letters that can go back and one that died too often."""

    def __init__(self) -> None:
        self.topics = LetterTopics()
        for number in range(3):
            self.die(number)
        self.die(3, (("tidemill.attempt", b"3"),))

    def die(self, number: int, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        self.topics.die(Record("fraud-raw-payments", 0, number, 5 + number, b"k", b"v", headers))


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Ground:
    made = Ground()

    class Admin:
        def __init__(self, *_: object) -> None: ...

        def partition_counts(self) -> dict[str, int]:
            return {"fraud-raw-payments": 4}

    class Writer(Producer):
        def __init__(self, *_: object) -> None:
            super().__init__(made.topics)

        def close(self) -> None: ...

    monkeypatch.setattr(kafka, "Admin", Admin)
    monkeypatch.setattr(kafka, "LetterDesk", lambda *_: made.topics)
    monkeypatch.setattr(kafka, "RedeliveryProducer", Writer)
    return made


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["dlq", "replay", "fraud", "--bootstrap-servers", "kafka:9092", *options])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_off_a_terminal_it_shows_what_it_would_do_and_does_nothing(
    capsys: pytest.CaptureFixture[str], ground: Ground
) -> None:
    code, out, err = run(capsys)
    assert code == 1, "one letter is left behind"
    assert "3 dead letters to put back" in out and "out_of_range" in out and "fraud-raw-payments" in out
    assert "1 held back (too_many_attempts)" in out and "0:3" in out
    assert err == "nothing was written; 3 would be put back with --yes\n"
    assert ground.topics.written == []


def test_with_yes_it_does_it_once(capsys: pytest.CaptureFixture[str], ground: Ground) -> None:
    code, out, _ = run(capsys, "--yes", "--json", "--limit", "2")
    assert code == 0, "the limit was reached before the letter that is left behind"
    assert json.loads(out) == {
        "dry_run": False,
        "replay": 2,
        "replayed_before": 0,
        "too_many_attempts": 0,
        "no_reader": 0,
        "no_partition": 0,
        "unreadable": 0,
        "by_code": {"out_of_range": 2},
        "by_topic": {"fraud-raw-payments": 2},
        "held_back": [],
    }
    code, out, _ = run(capsys, "--yes")
    assert code == 1
    assert "1 dead letters put back" in out and "2 were put back before" in out
    assert len(ground.topics.put_back) == 3


def test_dry_run_means_it(capsys: pytest.CaptureFixture[str], ground: Ground) -> None:
    run(capsys, "--dry-run", "--yes")
    assert ground.topics.written == []


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(
    capsys: pytest.CaptureFixture[str], ground: Ground, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    asked = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", confirm)
    run(capsys)
    assert asked == ["Put 3 dead letters back?"]
    assert len(ground.topics.put_back) == (3 if answer else 0)


def test_nothing_to_put_back_asks_nothing_and_is_no_failure(capsys: pytest.CaptureFixture[str], ground: Ground) -> None:
    code, out, err = run(capsys, "--code", "not_json", "--yes")
    assert (code, out, err) == (0, "0 dead letters to put back\n", "")
