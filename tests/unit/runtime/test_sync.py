"""The timestamp-synchronised merge: nothing lost, partition order kept, time order kept unless forced."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.durations import HOUR_MS
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record
from tidemill.runtime.sync import Merge, Released

A, B = ("a", 0), ("a", 1)
LATER = ("later", 0)


def record(partition: Partition, offset: int, timestamp: int) -> Record:
    return Record(*partition, offset, timestamp, b"k", b"v")


def records(partition: Partition, *timestamps: int, first: int = 0) -> list[Record]:
    return [record(partition, first + index, timestamp) for index, timestamp in enumerate(timestamps)]


def ended(*partitions: Partition) -> dict[Partition, int]:
    """Ends right behind the last record."""
    return dict.fromkeys(partitions, 0)


def merge(*partitions: Partition, delay: int = 0, max_idle_ms: int = 200) -> Merge:
    made = Merge((InputTopic("a"), InputTopic("b"), InputTopic("later", delay)), max_idle_ms)
    made.own(dict.fromkeys(partitions, 0), {}, now=0.0)
    return made


def times(released: Released) -> list[tuple[str, int, int]]:
    return [(each.topic, each.partition, each.timestamp) for each in released.records]


def test_a_partition_being_fetched_holds_the_others_back_at_its_newest_timestamp() -> None:
    m = merge(A, B)
    m.feed(records(A, 10, 20, 30), {}, now=0.0)
    assert m.release(0.0).records == []
    m.feed(records(B, 5, 20), {}, now=0.0)
    assert times(m.release(0.0)) == [("a", 1, 5), ("a", 0, 10), ("a", 0, 20), ("a", 1, 20)]
    assert m.buffered == 1


def test_at_equal_times_the_order_does_not_depend_on_which_partition_came_first() -> None:
    m = merge(A, B)
    m.feed(records(B, 20), {}, now=0.0)
    m.feed(records(A, 10), {}, now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 10)], "partition 0 may still bring a record at 20, which goes first"
    m.feed(records(A, 20, 21, first=1), {}, now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 20), ("a", 1, 20)]


def test_a_partition_at_its_end_holds_nothing_back() -> None:
    m = merge(A, B)
    m.feed(records(A, 10, 20), ended(B), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 10), ("a", 0, 20)]


def test_a_partition_that_has_just_ended_holds_back_what_is_far_ahead_of_it_but_not_for_long() -> None:
    """After an outage a label and its event, a day apart, come in one transaction: whose marker is seen first must not
    decide which of them is first."""
    m = merge(A, B, max_idle_ms=200)
    m.feed([*records(A, 1_000), *records(B, 1_000 + HOUR_MS, 1_001 + HOUR_MS)], ended(A, B), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 1_000), ("a", 1, 1_000 + HOUR_MS)]
    assert m.next_release_at(0.0) == 0.2
    m.feed(records(A, 2_000, first=1), ended(A), now=0.05)
    assert times(m.release(0.05)) == [("a", 0, 2_000), ("a", 1, 1_001 + HOUR_MS)]
    m.feed(records(B, 2_002 + HOUR_MS, first=2), ended(B), now=0.1)
    m.feed([], ended(A, B), now=0.15)
    assert m.release(0.15).records == []
    m.feed([], ended(A, B), now=0.25)
    late = m.release(0.25)
    assert times(late) == [("a", 1, 2_002 + HOUR_MS)]
    assert not late.forced


def test_a_new_record_ends_the_end() -> None:
    m = merge(A, B)
    m.feed([], ended(A, B), now=0.0)
    m.feed(records(B, 5), {}, now=0.0)
    m.feed(records(A, 10), {}, now=0.0)
    assert times(m.release(0.0)) == [("a", 1, 5)]


def test_a_partition_without_news_is_waited_for_only_so_long_and_the_release_counts_as_forced() -> None:
    m = merge(A, B, max_idle_ms=200)
    m.feed(records(A, 10), {}, now=0.0)
    for now in (0.05, 0.1, 0.15):
        m.feed([], {}, now)
        assert m.release(now).records == []
    assert m.next_release_at(0.15) == pytest.approx(0.2)
    m.feed([], {}, 0.2)
    released = m.release(0.2)
    assert times(released) == [("a", 0, 10)]
    assert released.forced
    assert m.next_release_at(0.2) is None


def test_time_spent_elsewhere_is_no_evidence_that_a_partition_is_empty() -> None:
    m = merge(A, B, max_idle_ms=200)
    m.feed(records(A, 10), {}, now=0.0)
    m.feed([], {}, now=60.0)
    assert m.release(60.0).records == []


def test_a_poll_cut_off_by_its_limit_is_no_evidence_either() -> None:
    m = merge(A, B, max_idle_ms=200)
    for step in range(100):
        m.feed([record(A, step, step)], {}, now=step * 0.05, more=True)
        assert m.release(step * 0.05).records == []


def test_what_is_not_owned_or_was_fetched_before_a_rewind_is_ignored() -> None:
    m = merge(A)
    m.own({A: 3}, {}, now=0.0)
    m.feed([*records(A, 1, 2, 3, 4), *records(B, 9)], ended(A, B), now=0.0)
    released = m.release(0.0)
    assert [each.offset for each in released.records] == [3]
    assert released.positions == {A: 4}


def test_disowned_partitions_no_longer_hold_and_no_longer_release() -> None:
    m = merge(A, B)
    m.feed(records(A, 10), {}, now=0.0)
    m.disown([B])
    m.feed([], ended(A), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 10)]


def test_delayed_records_wait_until_every_undelayed_partition_has_passed_them() -> None:
    m = merge(A, B, LATER, delay=100)
    m.feed([*records(LATER, 0, 50), *records(A, 120)], ended(LATER, A, B), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 120)], "partition 1 has shown no time yet"
    m.feed(records(B, 101), ended(B), now=0.01)
    assert times(m.release(0.01)) == [("later", 0, 0), ("a", 1, 101)]
    m.feed(records(B, 151, first=1), ended(B), now=0.02)
    assert times(m.release(0.02)) == [("a", 1, 151)], "partition 0 stands at 120"
    m.feed(records(A, 151, first=1), ended(A), now=0.03)
    assert times(m.release(0.03)) == [("later", 0, 50), ("a", 0, 151)]


def test_at_its_effective_time_a_delayed_record_goes_after_the_undelayed_inputs_listed_before_it() -> None:
    m = merge(A, LATER, delay=100)
    m.feed([*records(LATER, 0), *records(A, 100)], ended(LATER, A), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 100)], "another record at 100 may come and goes first"
    m.feed(records(A, 101, first=1), ended(A), now=0.0)
    assert times(m.release(0.0)) == [("later", 0, 0), ("a", 0, 101)]


def test_an_empty_undelayed_partition_does_not_stop_time_for_ever() -> None:
    m = merge(A, B, LATER, delay=100, max_idle_ms=200)
    m.feed([*records(LATER, 0), *records(A, 500)], ended(LATER, A, B), now=0.0)
    assert times(m.release(0.0)) == [("a", 0, 500)]
    assert m.next_release_at(0.0) == pytest.approx(0.2)
    for now in (0.1, 0.2):
        m.feed([], {}, now)
    assert times(m.release(0.2)) == [("later", 0, 0)]


def test_delayed_records_are_never_forced() -> None:
    m = merge(A, LATER, delay=100, max_idle_ms=0)
    m.feed(records(LATER, 0), ended(LATER), now=0.0)
    for now in range(100):
        m.feed([], {}, float(now))
        assert m.release(float(now)).records == []
    assert m.next_release_at(100.0) is None, "time alone lets nothing go: the caller must not spin"


def test_a_merge_without_an_undelayed_input_is_refused() -> None:
    with pytest.raises(ValueError, match="undelayed"):
        Merge((InputTopic("later", 5),), 200)


def test_a_partition_is_paused_beyond_the_high_water_mark_and_resumed_below_half_of_it() -> None:
    m = Merge((InputTopic("a"),), max_idle_ms=200, high_water=4)
    m.own({A: 0, B: 0}, {}, now=0.0)
    m.feed(records(A, 1, 2, 3, 4), {}, now=0.0)
    assert (m.overfull(), m.overfull()) == ([A], [])
    assert m.drained() == []
    assert m.paused() == [A]
    m.feed(records(B, 2), {}, now=0.0)
    m.release(0.0)
    assert (m.drained(), m.drained()) == ([A], [])


def test_lag_counts_what_is_buffered_and_what_is_not_fetched_yet() -> None:
    m = merge(A, B)
    m.feed(records(A, 1, 2), ended(B), now=0.0)
    assert m.lag({A: 10, B: 1}) == 2 + 8


@dataclass(frozen=True)
class Feed:
    """One poll: how many further records of each partition, and whether their ends are reported. Before it, perhaps,
    the process starts again from what was released."""

    takes: tuple[int, ...]
    at_end: bool
    restart: bool = False


logs = st.lists(st.lists(st.integers(0, 40), max_size=25), min_size=1, max_size=4)
takes = st.tuples(*[st.integers(0, 4)] * 4)
feeds = st.lists(st.builds(Feed, takes, st.booleans()), max_size=30)
restarts = st.lists(st.builds(Feed, takes, st.booleans(), st.booleans()), max_size=30)


def play(contents: list[list[int]], polls: list[Feed], *, report_ends: bool) -> list[Record]:
    """Feed the logs as `polls` say, then to the end, and collect what is released."""
    partitions: list[Partition] = [("ab"[index % 2], index // 2) for index in range(len(contents))]
    m = Merge((InputTopic("a"), InputTopic("b")), 200)
    m.own(dict.fromkeys(partitions, 0), {}, now=0.0)
    logs = {at: records(at, *stamps) for at, stamps in zip(partitions, contents, strict=True)}
    sent = dict.fromkeys(partitions, 0)
    out: list[Record] = []
    going_on = dict.fromkeys(partitions, 0)
    for poll in [*polls, Feed((100,) * 4, True)]:
        if poll.restart:
            newest = m.times(partitions)
            m = Merge((InputTopic("a"), InputTopic("b")), 200)
            m.own(going_on, newest, now=0.0)
            sent = dict(going_on)
        batch: list[Record] = []
        for at, count in zip(partitions, poll.takes, strict=False):
            batch += logs[at][sent[at] : sent[at] + count]
            sent[at] = min(len(logs[at]), sent[at] + count)
        last = poll.takes[0] == 100
        at_end = [at for at in partitions if sent[at] == len(logs[at])] if last or (poll.at_end and report_ends) else []
        m.feed(batch, ended(*at_end), 0.0)
        released = m.release(0.0)
        assert not released.forced
        assert all(released.positions[each.topic, each.partition] > each.offset for each in released.records)
        assert Counter(each.topic for each in released.records) == released.counts
        out += released.records
        going_on.update(released.positions)
    assert m.buffered == 0
    return out


def effective(contents: list[Record]) -> dict[tuple[str, int, int], int]:
    """Running maximum of each partition, by (topic, partition, offset)."""
    newest: dict[Partition, int] = {}
    result = {}
    for each in sorted(contents, key=lambda each: each.offset):
        at = (each.topic, each.partition)
        newest[at] = max(newest.get(at, 0), each.timestamp)
        result[*at, each.offset] = newest[at]
    return result


@given(logs, feeds)
def test_nothing_is_lost_or_repeated_and_each_partition_keeps_its_order(
    contents: list[list[int]], polls: list[Feed]
) -> None:
    out = play(contents, polls, report_ends=True)
    assert len(out) == sum(map(len, contents))
    for at in {(each.topic, each.partition) for each in out}:
        offsets = [each.offset for each in out if (each.topic, each.partition) == at]
        assert offsets == list(range(len(offsets)))


@given(logs, feeds)
def test_without_a_forced_release_the_order_is_total_and_independent_of_the_batching(
    contents: list[list[int]], polls: list[Feed]
) -> None:
    out = play(contents, polls, report_ends=False)
    time_of = effective(out)
    keys = [(time_of[each.topic, each.partition, each.offset], each.topic, each.partition) for each in out]
    assert keys == sorted(keys)
    assert out == play(contents, [], report_ends=False)


@given(logs, restarts)
def test_a_restart_at_any_point_changes_nothing_in_the_order(contents: list[list[int]], polls: list[Feed]) -> None:
    assert play(contents, polls, report_ends=False) == play(contents, [], report_ends=False)


def test_a_restart_behind_the_last_undelayed_record_knows_how_far_time_had_come() -> None:
    m = merge(A, LATER, delay=100)
    m.feed([*records(A, 300), *records(LATER, 150, 500)], ended(A, LATER), now=0.0)
    assert times(m.release(0.0)) == [("later", 0, 150), ("a", 0, 300)]
    known = m.times([A, LATER])
    assert known == {A: 300, LATER: 150}
    again = Merge((InputTopic("a"), InputTopic("b"), InputTopic("later", 100)), 200)
    again.own({A: 1, LATER: 1}, known, now=0.0)
    again.feed(records(LATER, 190, 500, first=1), ended(A, LATER), now=0.0)
    assert times(again.release(0.0)) == [("later", 0, 190)], "no undelayed record has come since, and none may for days"


@given(logs, st.integers(1, 10))
def test_a_limit_changes_neither_content_nor_order(contents: list[list[int]], limit: int) -> None:
    partitions: list[Partition] = [("a", index) for index in range(len(contents))]
    m = Merge((InputTopic("a"),), 200)
    m.own(dict.fromkeys(partitions, 0), {}, now=0.0)
    for at, stamps in zip(partitions, contents, strict=True):
        m.feed(records(at, *stamps), ended(*partitions), 0.0)
    m.feed([], ended(*partitions), 0.0)
    out: list[Record] = []
    while not out or m.more_to_release:
        released = m.release(0.0, limit)
        out += released.records
        if not released.records:
            break
    assert m.buffered == 0
    time_of = effective(out)
    keys = [(time_of[each.topic, each.partition, each.offset], each.topic, each.partition) for each in out]
    assert keys == sorted(keys)
    assert len(out) == sum(map(len, contents))


def test_a_partition_of_which_nothing_waits_goes_on_behind_the_markers_at_its_end() -> None:
    m = merge(A, B)
    m.feed(records(A, 10), {B: 4}, now=0.0)
    assert m.read_upto() == {B: 4}
    assert m.release(now=0.0).positions == {A: 1}
    m.feed(records(A, 20, first=2), {A: 5}, now=0.0)
    assert m.read_upto() == {B: 4}, "what waits was not added yet"
    assert m.release(now=0.0).positions == {A: 5}
    m.feed([], {A: 3}, now=0.0)
    assert m.read_upto() == {A: 5, B: 4}, "no position goes back"


def test_a_batch_that_is_cut_goes_on_behind_its_last_record() -> None:
    m = merge(A)
    m.feed(records(A, 1, 2, 3), {A: 7}, now=0.0)
    assert m.release(0.0, limit=2).positions == {A: 2}
    assert m.release(0.0, limit=2).positions == {A: 7}
