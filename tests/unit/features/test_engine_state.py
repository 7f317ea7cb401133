"""The engine's changelog: chunk by chunk, deleted when expired, refused when it is not ours."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tidemill.domain.durations import DAY_MS
from tidemill.errors import StateCorrupt
from tidemill.features.core import kernels, scan
from tidemill.features.core.columns import Column
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.runtime.pipelinefile import load_pipeline

STAGE = compile_stage(load_pipeline("fraud"), 0)
START = 1_522_540_800_000


def slide(engine: WindowEngine, times: list[int], key: bytes = b"c-1", cents: int = 100) -> list[list[float]]:
    """One event a time, each with an id of its own."""
    ids = np.array([hash((key, ts)) for ts in times], np.int64)
    labels = np.full(len(times), kernels.NOT_A_LABEL, np.int64)
    numbers = np.full((len(times), 1), cents, np.int64)
    out, status = engine.slide([key] * len(times), np.array(times, np.int64), ids, labels, numbers)
    assert (status == kernels.ACCEPTED).all()
    return out.tolist()


def saved(engine: WindowEngine, changelog: dict[bytes, bytes]) -> list[bytes]:
    """Keys written by this `pack`, applied to `changelog`."""
    entries = engine.pack()
    for key, value in entries:
        if value is None:
            changelog.pop(key, None)
        else:
            changelog[key] = value
    return [key for key, _ in entries]


def restored(changelog: dict[bytes, bytes], stage: StageDefinition = STAGE) -> WindowEngine:
    engine = WindowEngine(stage)
    engine.restore(changelog.items())
    return engine


def test_only_the_open_chunk_is_written_again() -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    slide(engine, [START + n for n in range(40)])
    assert saved(engine, changelog) == [b"c-1\0\0\0\0", b"c-1\0\0\0\1", b"c-1\0\0\0\2"]
    slide(engine, [START + 100])
    assert saved(engine, changelog) == [b"c-1\0\0\0\2"]
    assert saved(engine, changelog) == []


def test_a_chunk_of_expired_rows_is_deleted() -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    slide(engine, [START + n for n in range(32)])
    saved(engine, changelog)
    slide(engine, [START + 30 * DAY_MS + 7_200_000])
    assert engine.rows == 1
    saved(engine, changelog)
    assert list(changelog) == [b"c-1\0\0\0\2"]


def test_a_key_that_nothing_can_look_back_to_is_forgotten_with_its_chunks() -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    slide(engine, [START + n for n in range(20)])
    slide(engine, [START], b"c-2")
    saved(engine, changelog)
    slide(engine, [START + 40 * DAY_MS], b"c-3")
    assert engine.keys == 1
    saved(engine, changelog)
    assert list(changelog) == [b"c-3\0\0\0\0"]
    assert slide(engine, [START + 40 * DAY_MS + 1])[0][0] == 1.0, "the slot is used again, and begins blank"
    saved(engine, changelog)
    assert restored(changelog).keys == 2


def test_rows_more_than_49_days_apart_survive_a_restart() -> None:
    edges = STAGE.tables.edges.copy()
    edges[3, scan.EDGE_DELAY] = 150 * DAY_MS
    wide = replace(STAGE, retention=200 * DAY_MS, tables=replace(STAGE.tables, edges=edges))
    engine, changelog = WindowEngine(wide), dict[bytes, bytes]()
    slide(engine, [START, START + 100 * DAY_MS], cents=1 << 40)
    saved(engine, changelog)
    expected = slide(engine, [START + 101 * DAY_MS])
    assert slide(restored(changelog, wide), [START + 101 * DAY_MS]) == expected
    assert expected[0][4] == 3.0


def test_ten_thousand_keys_of_many_rows_grow_every_structure_and_come_back() -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    for turn in range(20):
        keys = [b"k%d" % number for number in range(3_000)]
        times = np.full(3_000, START + turn * 1_000, np.int64)
        ids, labels = np.full(3_000, turn, np.int64), np.full(3_000, kernels.NOT_A_LABEL, np.int64)
        engine.slide(keys, times, ids, labels, np.full((3_000, 1), 7, np.int64))
        saved(engine, changelog)
    again = restored(changelog)
    assert (again.keys, again.rows) == (engine.keys, engine.rows) == (3_000, 60_000)
    assert slide(again, [START + 20_000], b"k2999") == slide(engine, [START + 20_000], b"k2999")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda value: value[:-4], "cut short"),
        (lambda value: value[:-1], "not a chunk record"),
        (lambda value: b"\x01" + value[1:], "another format"),
        (lambda value: value[:4] + b"\0\0\0\0" + value[8:], "another definition"),
    ],
)
def test_a_damaged_or_foreign_record_stops_the_service(damage: Callable[[bytes], bytes], said: str) -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    slide(engine, [START, START + 1])
    saved(engine, changelog)
    changelog = {key: damage(value) for key, value in changelog.items()}
    with pytest.raises(StateCorrupt, match=said):
        restored(changelog)


def test_state_of_another_stage_is_refused() -> None:
    engine, changelog = WindowEngine(STAGE), dict[bytes, bytes]()
    slide(engine, [START])
    saved(engine, changelog)
    with pytest.raises(StateCorrupt):
        restored(changelog, compile_stage(load_pipeline("fraud"), 1))


def test_the_kernels_give_the_same_bits_as_plain_python() -> None:
    program = (
        "import hashlib, random\n"
        "from support.featurestreams import arrivals, restored, save, slide, stage_of\n"
        "from tidemill.domain.featurespec import FeatureSpec\n"
        "wanted, number = [], dict(field='amount', where='amount >= 1')\n"
        "windows = [9000, dict(type='tumbling', size=9000), dict(type='hopping', size=9000, hop=3000),\n"
        "    dict(type='session', gap=5000, within=30000), dict(type='count', last=4, within=60000)]\n"
        "asked = [dict(aggregate=one, **number) for one in\n"
        "    ('sum', 'mean', 'min', 'max', 'std', 'first', 'ratio_to_mean')]\n"
        "asked += [dict(aggregate='count'), dict(aggregate='since_last'), dict(aggregate='label_rate', delay=5000),\n"
        "    dict(aggregate='last', k=3, **number), dict(aggregate='quantile', q=0.9, **number),\n"
        "    dict(aggregate='distinct', field='channel'), dict(aggregate='share', field='channel', equals='app')]\n"
        "for window in windows:\n"
        "    wanted += [dict(one, window=window) for one in asked]\n"
        "decay = dict(type='decay', half_life=700)\n"
        "wanted += [dict(aggregate=one, window=decay, **number) for one in ('sum', 'mean')]\n"
        "features = tuple(FeatureSpec(name=f'f{at}', **one) for at, one in enumerate(wanted))\n"
        "stage, rows, changelog = stage_of(features, 20000, 20000), arrivals(random.Random(5), 200), {}\n"
        "engine = restored(stage, {})\n"
        "out, status = slide(engine, stage, rows)\n"
        "save(engine, changelog)\n"
        "again, _ = slide(restored(stage, changelog), stage, rows[:50])\n"
        "seen = out.tobytes() + again.tobytes() + status.tobytes() + repr(changelog).encode()\n"
        "print(hashlib.sha256(seen).hexdigest(), out.shape)\n"
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
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize("wide", [0, 29, 30, 40])
def test_a_value_of_any_width_survives_a_restart(wide: int) -> None:
    kept = (*[Column("taken", None, ())] * 40, Column("value", "amount", ()))
    gates = np.full(kernels.NUMBERS + 41, -1, np.int64)
    spec = np.array([[kernels.OP_SUM, 0, 3, kernels.NUMBERS + at, 1, 0, 0, at] for at in range(41)], np.int64)
    tables = replace(STAGE.tables, spec=spec, gates=gates)
    stage = replace(STAGE, kept=kept, tables=tables, aggregates=tuple(range(41)))
    engine, changelog = WindowEngine(stage), dict[bytes, bytes]()
    values = np.ones((20, 41), np.int64)
    values[:, wide] = [-(1 << 31) - 1, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 62] * 4
    times, labels = np.arange(START, START + 20), np.full(20, kernels.NOT_A_LABEL, np.int64)
    engine.slide([b"c"] * 20, times, times, labels, values)
    saved(engine, changelog)
    ends = [
        one.slide([b"c"], times[-1:] + 1, times[-1:] + 1, labels[:1], values[:1])[0].tolist()
        for one in (engine, restored(changelog, stage))
    ]
    assert ends[0] == ends[1]
    words = len(changelog[b"c\0\0\0\0"]) // 4
    assert words == 4 + 2 + 16 * 3 + 4 + 16 * (42 + 1), "one column of 42 is wide"
