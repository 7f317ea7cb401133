"""One seed gives one schedule; the journal's times and the verdict follow from what happened."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaosharness import arguments
from chaosharness.failpoints import FAILPOINTS, MODEL_SWAP
from chaosharness.journal import Entry, Journal, JournalReader, kills_by_failpoint, recoveries, totals, unexplained
from chaosharness.mutants import MUTANTS
from chaosharness.proof import _is_seen
from chaosharness.run import counts_of, rate_of
from chaosharness.schedule import KILLABLE, Counts, plan
from chaosharness.verdict import vacuous, violations

COUNTS = Counts(kills=200, usurpations=3, broker_kills=2, broker_stops=2, zombies=4, storms=3, swaps=5)


@given(st.integers(0, 1_000))
def test_a_seed_gives_one_schedule_in_order(seed: int) -> None:
    faults = plan(seed, COUNTS)
    assert faults == plan(seed, COUNTS) == sorted(faults)
    assert sum(fault.kind == "kill" for fault in faults) == 200
    assert [len(fault.service.split("+")) for fault in faults if fault.kind == "zombie"] == [2, 2]
    assert len(faults) == 217
    assert all(0 < fault.share < 1 for fault in faults)


def test_other_seeds_give_other_schedules_and_every_failpoint_comes_up() -> None:
    assert plan(1, COUNTS) != plan(2, COUNTS)
    planned = {fault.detail for fault in plan(1, COUNTS) if fault.kind == "kill"}
    assert planned >= set(FAILPOINTS)
    assert len(FAILPOINTS) >= 12
    few = plan(1, Counts(kills=len(FAILPOINTS) * 5 // 4 + 1))
    assert {fault.detail for fault in few} >= set(FAILPOINTS)


def test_a_kill_is_aimed_at_a_service_that_comes_by_its_failpoint() -> None:
    for fault in plan(3, COUNTS):
        if fault.detail == MODEL_SWAP:
            assert fault.service == "inference"
        if fault.detail in ("mid-restore", "after-state"):
            assert fault.service != "ingest"
    alone = plan(3, COUNTS, ("ingest",))
    assert {fault.service for fault in alone if fault.kind == "kill"} == {"ingest"}


def test_the_stream_lasts_as_long_as_its_faults() -> None:
    options = arguments.parse(["--events", "1000000", "--kills", "300"])
    faults = plan(options.seed, counts_of(options), KILLABLE)
    assert 1_000_000 / rate_of(options, faults) > 300 * 2


@pytest.mark.parametrize(
    "wrong", [["--faults", "kill,flood"], ["--kills", "many"], ["--mutant", "nothing"], ["--bad-share", "0.9"]]
)
def test_wrong_arguments_end_with_code_two(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(wrong)
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 12


def test_the_journal_survives_a_half_written_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "inference")
    reader = JournalReader(tmp_path)
    assert reader.poll() == []
    journal.write("kill", "after-poll")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'[1.0, "ki')
    assert [(entry.kind, entry.service, entry.detail) for entry in reader.poll()] == [
        ("kill", "inference", "after-poll")
    ]
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'll", "drift", 7, "random"]\n')
    assert reader.poll() == [Entry(1.0, "kill", "drift", 7, "random")]
    assert totals(reader.entries) == {"kill": 2}
    assert kills_by_failpoint(reader.entries) == {"after-poll": 1, "random": 1}
    journal.close()


def test_recovery_is_from_a_kill_to_the_next_commit_of_that_service() -> None:
    entries = [
        Entry(9.0, "joining", "a", 1, "100"),
        Entry(10.0, "kill", "a", 1, "after-poll"),
        Entry(10.5, "first_commit", "b", 2, ""),
        Entry(12.0, "joining", "a", 3, "100"),
        Entry(12.5, "first_commit", "a", 3, ""),
        Entry(20.0, "kill", "a", 3, "random"),
        Entry(21.0, "kill", "a", 4, "mid-restore"),
        Entry(25.0, "first_commit", "a", 5, ""),
        Entry(26.0, "kill", "a.1", 7, "process"),
        Entry(29.0, "first_commit", "a.1", 8, ""),
        Entry(30.0, "kill", "a", 1, "process"),
        Entry(33.5, "joining", "a", 6, "200"),
        Entry(34.0, "first_commit", "a", 6, ""),
        Entry(35.0, "kill", "a", 6, "random"),
    ]
    found = recoveries(entries)
    assert found["process_kill_to_commit_s"] == {"count": 1, "p50": 4.0, "p99": 4.0, "max": 4.0}
    assert (found["interrupted"], found["never"]) == (1, 1)
    assert found["kill_to_commit_by_service_s"] == {"a": found["kill_to_commit_s"]}
    assert found["kill_to_commit_s"] == {"count": 1, "p50": 2.5, "p99": 2.5, "max": 2.5}
    assert found["join_to_commit_s"] == {"count": 2, "p50": 0.5, "p99": 0.5, "max": 0.5}


def report(**happened: int) -> dict[str, Any]:
    return {
        "findings": {"order": {"count": 0, "first": []}, "outputs": {"count": 0, "first": []}},
        "options": {"faults": ("kill", "storm"), "bad_share": 0.02},
        "exits": [],
        "unexplained_deaths": [],
        "complete": True,
        "settled": True,
        "faults": {"planned": {}, "done": {}, "missed": []},
        "happened": happened,
        "failpoints_never_hit": [],
        "dead_letters": 3,
        "events": 10,
    }


def did(done: int, planned: int, kind: str = "kill") -> dict[str, Any]:
    return report(fence=1, recycle=1, rewind=1, abort=1) | {
        "faults": {"planned": {kind: planned}, "done": {kind: done}}
    }


def test_a_run_that_hurt_nobody_is_vacuous() -> None:
    assert vacuous(report()) == []
    assert vacuous(did(16, 20)) == []
    assert vacuous(did(15, 20)) == ["kill: 15 of 20 took place"]
    assert vacuous(did(0, 1, "network-hold")) == ["network-hold: 0 of 1 took place"]
    assert vacuous(did(1, 1, "usurp")) == []
    assert vacuous(did(1, 1, "usurp") | {"happened": {"fence": 1, "recycle": 1, "abort": 2}}) == ["no rewind"]
    assert vacuous(report() | {"failpoints_never_hit": ["in-commit"]}) != []
    assert vacuous(report() | {"dead_letters": 0}) == ["no dead letter"]
    assert vacuous(report() | {"dead_letters": 0, "options": {"bad_share": 0.0}}) == []
    assert vacuous(report() | {"events": 0}) == ["no event"]


def test_what_did_not_come_to_an_end_is_a_violation_as_well() -> None:
    assert violations(report()) == 0
    assert violations(report() | {"complete": False, "settled": False}) == 2
    ended = {"service": "ingest", "status": 4, "reason": "fenced"}
    assert violations(report() | {"exits": [ended]}) == 1, "nobody took its id"
    assert violations(report() | {"exits": [ended], "options": {"faults": ("usurp",)}}) == 0
    corrupt = ended | {"status": 6}
    assert violations(report() | {"exits": [corrupt], "options": {"faults": ("broker-kill",)}}) == 1
    assert violations(report() | {"findings": {"order": {"count": 7, "first": []}}}) == 7
    assert violations(report() | {"unexplained_deaths": ["drift: worker 7"]}) == 1


def test_a_worker_that_is_replaced_was_killed_by_a_fault_or_is_asked_about() -> None:
    first, second = Entry(1.0, "joining", "a", 1, "100"), Entry(3.0, "joining", "a", 2, "100")
    assert unexplained([first, Entry(2.0, "kill", "a", 1, "random"), second]) == []
    assert unexplained([first, second]) == ["a: worker 1 ended by a signal that no fault sent"]
    assert unexplained([first, second._replace(detail="200")]) == [], "its parent ended: that is seen elsewhere"


def test_a_mutant_counts_as_seen_by_what_it_did_to_the_records() -> None:
    assert _is_seen("no-rewind", {"outputs": 3, "exits": 1})
    assert not _is_seen("no-rewind", {"exits": 4, "never_finished": 1})
    assert not _is_seen("no-rewind", {})
    assert _is_seen("stale-group-metadata", {"never_finished": 1})
