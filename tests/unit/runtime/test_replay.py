"""Which records belong to a replay, and when it is over."""

from tidemill.runtime.replay import Replay
from tidemill.runtime.service import Record


def record(offset: int, partition: int = 0) -> Record:
    return Record("t", partition, offset, 0, None, b"v")


def test_records_up_to_the_committed_offset_are_replayed_and_later_ones_are_not() -> None:
    replay = Replay({("t", 0): 3})
    assert replay.admit([record(1), record(2), record(3)], {}) == ([record(1), record(2)], [("t", 0)])
    assert replay.over


def test_partitions_without_a_replay_are_ignored() -> None:
    replay = Replay({("t", 0): 3})
    assert replay.admit([record(1, partition=1)], {}) == ([], [])
    assert not replay.over


def test_a_gap_before_the_committed_offset_is_crossed_by_the_next_record_or_by_the_end() -> None:
    replay = Replay({("t", 0): 10, ("t", 1): 10})
    assert replay.admit([record(12)], {}) == ([], [("t", 0)])
    assert not replay.over
    assert replay.admit([], {("t", 1): 9}) == ([], [])
    assert replay.admit([], {("t", 1): 10}) == ([], [("t", 1)])
    assert replay.over
