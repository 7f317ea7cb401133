"""Merged rows in the changelog and for people, and what a partition does when a cap is met."""

import os
import subprocess
import sys

import numpy as np
import pytest

from support.featureoracle import Row
from support.featurestreams import SECOND, restored, save, shop, slide
from tidemill.domain.durations import DAY_MS
from tidemill.domain.featurespec import FeatureSpec, StateLimits
from tidemill.errors import StateCorrupt, StateFull
from tidemill.features.core import chunks, merging, rings
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.features.core.holdings import WindowHoldings

START = 1_000_000
WANTED = (
    FeatureSpec(name="n", aggregate="count", window=1_000 * SECOND),
    FeatureSpec(name="sum", aggregate="sum", field="amount", window=1_000 * SECOND),
)
MERGED = shop(WANTED, 10 * SECOND, 20 * SECOND, {"max_rows_per_key": 100, "bucket": 5 * SECOND})
STAGE = compile_stage(MERGED, 0)
PLAIN = compile_stage(shop(WANTED, 10 * SECOND, 20 * SECOND), 0)


def steady(count: int, every: int = 100, start: int = START, key: bytes = b"a") -> list[Row]:
    return [Row(key, number, start + number * every, 100, None) for number in range(count)]


def driven(stage: StageDefinition, rows: list[Row], batch: int) -> tuple[WindowEngine, dict[bytes, bytes]]:
    engine, changelog = WindowEngine(stage), dict[bytes, bytes]()
    for begin in range(0, len(rows), batch):
        slide(engine, stage, rows[begin : begin + batch])
        save(engine, changelog)
    return engine, changelog


def test_a_busy_key_holds_its_cells_and_what_has_not_settled() -> None:
    rows = steady(5_000)
    engine, _ = driven(STAGE, rows, 50)
    cells, unsettled = 500 // 5, 10 * (20 + 5)
    assert 0 < engine.rows <= cells + unsettled
    assert slide(engine, STAGE, [Row(b"a", 9_999, rows[-1].ts, 100, None)])[0].tolist() == [[5_001.0, 5_001.0]]


def test_a_key_with_few_rows_keeps_each_of_them() -> None:
    engine, changelog = driven(STAGE, steady(100, every=2_000), 7)
    assert engine.rows == 100
    assert not any(key[-4] & 0x80 for key in changelog)


def test_chunks_of_rows_that_were_merged_are_deleted() -> None:
    engine, changelog = driven(STAGE, steady(5_000), 50)
    plain = [key for key in changelog if not key[-4] & 0x80]
    assert len(plain) <= 10 * (20 + 5) / chunks.CHUNK_ROWS + 3
    assert len(changelog) - len(plain) <= 500 / 5 / chunks.CHUNK_ROWS + 1
    assert restored(STAGE, changelog).rows == engine.rows


def test_chunks_of_merged_rows_are_deleted_when_they_have_expired() -> None:
    engine, changelog = driven(STAGE, steady(20_000, every=100), 500)
    numbers = sorted(int.from_bytes(key[-4:], "big") - chunks.MERGED_CHUNKS for key in changelog if key[-4] & 0x80)
    # The oldest of 2,000 s are gone; a window of 1,000 s and the lateness of 10 s remain.
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] > 10
    assert len(numbers) <= (1_010 // 5 + 1) // chunks.CHUNK_ROWS + 2
    # A silence in which all that was merged expires, but not the last ten seconds.
    slide(engine, STAGE, [Row(b"a", 1, START + 19_999 * 100 + 1_000 * SECOND, 100, None)])
    save(engine, changelog)
    assert [key for key in changelog if key[-4] & 0x80] == []
    more = steady(3_000, start=START + 20_001 * 100 + 1_000 * SECOND)
    slide(engine, STAGE, more)
    save(engine, changelog)
    assert engine.rows == restored(STAGE, changelog).rows < 1_000
    end = Row(b"a", 9_999, more[-1].ts, 100, None)
    for one in (engine, restored(STAGE, changelog)):
        assert slide(one, STAGE, [end])[0].tolist() == [[3_002.0, 3_002.0]]


def test_a_forgotten_key_takes_its_merged_rows_along() -> None:
    engine, changelog = driven(STAGE, steady(5_000), 500)
    slide(engine, STAGE, [Row(b"other", 1, START + 9_000 * SECOND, 100, None)])
    save(engine, changelog)
    assert list(changelog) == [b"other\0\0\0\0"]


def test_a_label_of_an_event_that_was_merged_is_unmatched_and_a_repeated_one_is_late() -> None:
    rows = steady(5_000)
    engine, _ = driven(STAGE, rows, 500)
    _, status = slide(engine, STAGE, [rows[10]._replace(label=1), rows[10], rows[-10]._replace(label=1), rows[-10]])
    assert status.tolist() == [4, 1, 3, 2]


def test_state_with_merged_rows_is_for_stages_that_merge_alike_only() -> None:
    _, changelog = driven(STAGE, steady(2_000), 500)
    coarser = compile_stage(shop(WANTED, 10 * SECOND, 20 * SECOND, {"max_rows_per_key": 100, "bucket": 9_000}), 0)
    for other in (PLAIN, coarser):
        with pytest.raises(StateCorrupt, match="another definition"):
            restored(other, changelog)
    roomier = compile_stage(shop(WANTED, 10 * SECOND, 20 * SECOND, {"max_rows_per_key": 999, "bucket": 5_000}), 0)
    assert restored(roomier, changelog).rows > 0


def test_the_state_is_shown_with_what_each_merged_row_stands_for() -> None:
    engine, changelog = driven(STAGE, steady(2_000), 500)
    holdings = WindowHoldings(MERGED, 0)
    shown = list(holdings.rows(changelog))
    assert list(shown[0]) == list(holdings.columns)
    merged = [row for row in shown if row["kind"] == "merged"]
    assert len(shown) == engine.rows
    assert sum(int(row["events"] or 0) for row in shown) == 2_000
    assert {row["events"] for row in merged[:-1]} == {50}
    assert (merged[0]["arrival"], merged[0]["id_hash"], merged[0]["amount"]) == (None, None, 50.0)
    assert merged[0]["event_time"] == START + 4_900
    assert {row["events"] for row in shown if row["kind"] == "event"} == {1}
    (summary,) = holdings.summaries(changelog)
    assert summary.rows == engine.rows


def test_sums_of_any_width_survive_a_restart_as_merged_rows() -> None:
    rows = [row._replace(amount=(1 << 33) - number) for number, row in enumerate(steady(2_000))]
    engine, changelog = driven(STAGE, rows, 300)
    end = Row(b"a", 99_999, rows[-1].ts, 5, None)
    expected = slide(engine, STAGE, [end])[0].tolist()
    assert slide(restored(STAGE, changelog), STAGE, [end])[0].tolist() == expected
    assert expected[0][0] == 2_001.0


def stopping(**limits: int) -> StageDefinition:
    return compile_stage(shop(WANTED, 0, 0, limits=StateLimits.model_validate(limits)), 0)


def test_a_stage_that_is_full_stops_before_the_row_that_does_not_fit() -> None:
    stage = stopping(max_keys=3)
    engine = WindowEngine(stage)
    slide(engine, stage, [Row(b"k%d" % number, number, START + number, 1, None) for number in (0, 1, 2, 1)])
    with pytest.raises(StateFull, match=r"3 keys and 4 rows.*features\.state_limits\.max_keys \(3\)") as stopped:
        slide(engine, stage, [Row(b"k1", 7, START + 5, 1, None), Row(b"k9", 1, START + 5, 1, None)])
    assert "evict" in stopped.value.hint
    assert stopped.value.exit_code == 7


def test_bytes_are_rows_and_keys_of_their_widths() -> None:
    stage = stopping(max_bytes=4_096)
    engine = WindowEngine(stage)
    fitting = (4_096 - stage.line_bytes) // stage.row_bytes
    slide(engine, stage, steady(fitting))
    with pytest.raises(StateFull, match=r"max_bytes \(4,096\)"):
        slide(engine, stage, [Row(b"a", 9_999, START + fitting * 100, 1, None)])
    assert engine.rows == fitting


def test_room_is_counted_again_after_a_restart_and_after_keys_expired() -> None:
    stage = stopping(max_keys=3)
    _, changelog = driven(stage, [Row(b"k%d" % number, 1, START, 1, None) for number in range(3)], 2)
    again = restored(stage, changelog)
    with pytest.raises(StateFull):
        slide(again, stage, [Row(b"k9", 1, START, 1, None)])
    again = restored(stage, changelog)
    later = [Row(b"k%d" % number, 1, START + 9_000 * SECOND, 1, None) for number in range(4, 7)]
    slide(again, stage, later)
    assert again.names == [b"k4", b"k5", b"k6"]


def test_the_counts_that_caps_are_held_against_are_those_of_the_rows() -> None:
    stage = compile_stage(
        shop(WANTED, 0, 0, {"max_rows_per_key": 100, "bucket": 5_000}, StateLimits(max_keys=10**6)), 0
    )
    engine = WindowEngine(stage)
    slide(engine, stage, steady(3_000))
    slide(engine, stage, [row._replace(key=b"b", label=label) for row in steady(50) for label in (None, 1)])
    assert (engine._ctl[rings.HELD_ROWS], engine._ctl[rings.HELD_KEYS]) == (engine.rows, engine.keys)
    assert np.count_nonzero(engine.rows_of(b"a")[:, rings.ARRIVAL] == merging.MERGED) > 10
    slide(engine, stage, [Row(b"a", 1, START + 20 * DAY_MS, 1, None)])
    assert (engine._ctl[rings.HELD_ROWS], engine._ctl[rings.HELD_KEYS]) == (engine.rows, engine.keys) == (1, 1)


def test_a_stage_without_bounds_is_the_stage_it_was() -> None:
    assert PLAIN.bounds is None
    assert PLAIN.line_bytes == STAGE.line_bytes - 8 * merging.MERGED_WORDS
    assert stopping(max_keys=5).fingerprint == compile_stage(shop(WANTED, 0, 0), 0).fingerprint


def test_the_bounded_kernels_give_the_same_bits_as_plain_python() -> None:
    program = (
        "import hashlib, random\n"
        "from support.featurestreams import arrivals, restored, save, shop, slide\n"
        "from tidemill.domain.featurespec import FeatureSpec, StateLimits\n"
        "from tidemill.features.core.definition import compile_stage\n"
        "wanted = [dict(aggregate='std', field='amount', window=200000),\n"
        "    dict(aggregate='label_rate', window=100000, delay=5000),\n"
        "    dict(aggregate='min', field='amount', window=9)]\n"
        "features = tuple(FeatureSpec(name=f'f{at}', **one) for at, one in enumerate(wanted))\n"
        "limits = StateLimits(max_keys=3, max_bytes=4096, when_full='evict')\n"
        "merged = dict(max_rows_per_key=16, bucket=4000)\n"
        "stage = compile_stage(shop(features, 20000, 20000, merged, limits), 0)\n"
        "rows, changelog = arrivals(random.Random(7), 300), {}\n"
        "engine = restored(stage, {})\n"
        "out, status = slide(engine, stage, rows)\n"
        "save(engine, changelog)\n"
        "merged_chunks = sum(key[-4] >= 128 for key in changelog)\n"
        "again, _ = slide(restored(stage, changelog), stage, rows[-50:])\n"
        "seen = out.tobytes() + again.tobytes() + status.tobytes() + repr(sorted(changelog.items())).encode()\n"
        "print(hashlib.sha256(seen).hexdigest(), out.shape, merged_chunks, engine.take_evicted())\n"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
            env={**os.environ, "NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for disabled in ("0", "1")
    ]
    assert answers[0] == answers[1]
    *_, merged_chunks, evicted = answers[0].split()
    assert int(merged_chunks) > 0
    assert int(evicted) > 0
