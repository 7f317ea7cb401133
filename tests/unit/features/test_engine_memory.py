"""Memory follows the rows that live, and moving them changes no answer."""

import numpy as np

from support.featureoracle import Row
from support.featurestreams import SECOND, restored, save, slide, stage_of
from tidemill.domain.featurespec import FeatureSpec
from tidemill.features.core.engine import WindowEngine

WANTED = (
    FeatureSpec(name="n", aggregate="count", window=60 * SECOND),
    FeatureSpec(name="sum", aggregate="sum", field="amount", window=60 * SECOND),
    FeatureSpec(name="max", aggregate="max", field="amount", window=20),
)
STAGE = stage_of(WANTED, 0, 0)


def burst(key: bytes, start: int, count: int) -> list[Row]:
    return [Row(key, number, start + number, number, None) for number in range(count)]


def test_a_ring_gives_back_what_a_burst_needed() -> None:
    engine = WindowEngine(STAGE)
    for key in (b"a", b"b"):
        slide(engine, STAGE, burst(key, 1_000_000, 60_000))
    engine.pack()
    full = engine.memory_bytes
    assert engine.rows == 120_000
    held = [(row.ts, row.amount) for row in burst(b"a", 1_000_000, 60_000)]
    for step in range(1, 40):
        ts = 1_060_000 + step * 3 * SECOND
        matrix, _ = slide(engine, STAGE, [Row(key, 1, ts, step, None) for key in (b"a", b"b")])
        engine.pack()
        held = [row for row in [*held, (ts, step)] if row[0] > ts - 60 * SECOND]
        amounts = [amount for _, amount in held]
        assert matrix.tolist() == [[len(held), sum(amounts) / 100, step / 100]] * 2
    assert engine.rows == 40
    assert engine.memory_bytes < full / 5


def test_forgotten_keys_give_back_their_rows_and_their_lines() -> None:
    engine = WindowEngine(STAGE)
    for turn in range(4):
        slide(engine, STAGE, [Row(b"%d" % number, turn, 1_000_000 + turn, 7, None) for number in range(20_000)])
    engine.pack()
    full, changelog = engine.memory_bytes, dict[bytes, bytes]()
    slide(engine, STAGE, burst(b"late", 1_900_000, 10))
    save(engine, changelog)
    assert (engine.keys, engine.rows) == (1, 10)
    assert engine.memory_bytes < full / 5
    assert list(changelog) == [b"late\0\0\0\0"]
    again = restored(STAGE, changelog)
    for one in (engine, again):
        matrix, _ = slide(one, STAGE, [Row(b"late", 99, 1_900_010, 1, None), Row(b"new", 1, 1_900_011, 4, None)])
        assert matrix.tolist() == [[11.0, 0.46, 0.09], [1.0, 0.04, 0.04]]


def test_moving_everything_in_the_middle_of_a_stream_changes_no_bit() -> None:
    """Waves of keys come and go, so that rings shrink, slots are used again, and the arena is packed."""
    quiet, busy = WindowEngine(STAGE), WindowEngine(STAGE)
    chance = np.random.default_rng(4)
    for wave in range(6):
        start = 1_000_000 + wave * 45 * SECOND
        keys = [b"k%d" % key for key in chance.integers(0, [9, 6_000][wave % 2], 8_000)]
        rows = [Row(key, at, start + at, at % 97, None) for at, key in enumerate(keys)]
        whole, _ = slide(quiet, STAGE, rows)
        parts = []
        for begin in range(0, len(rows), 1_000):
            parts.append(slide(busy, STAGE, rows[begin : begin + 1_000])[0])
            busy.pack()
        assert np.concatenate(parts).tobytes() == whole.tobytes()
        quiet.pack()
    assert (quiet.keys, quiet.rows) == (busy.keys, busy.rows)
