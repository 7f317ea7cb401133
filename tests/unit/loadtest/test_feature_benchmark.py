"""The benchmark must know the right answers, count what is wrong, and report no more than its rounds say."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurebench import arguments
from featurebench.contestants import PEERS, PEERS_FOLDER
from featurebench.environments import environment_name, prepare
from featurebench.fraudfeed import Payments, features
from featurebench.ledger import Ledger
from featurebench.ratios import Pair, percentiles, state_share, summarize, table
from featurebench.stream import FIRST_MS, WINDOW_MS, Events, answers, draw
from featurebench.windowing import pipeline_text
from tidemill.errors import EnvironmentUnusable
from tidemill.runtime.pipelinefile import parse_pipeline

SEEDS = st.integers(0, 50)


def slow_answers(events: Events) -> Iterator[tuple[int, int]]:
    """By the definition, one event after the other."""
    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for time, key, value in zip(events.times.tolist(), events.keys.tolist(), events.values.tolist(), strict=True):
        rows[key].append((time, value))
        begin = time // WINDOW_MS * WINDOW_MS
        inside = [held for at, held in rows[key] if at >= begin]
        yield len(inside), sum(inside)


def test_the_right_answers_are_those_of_the_definition() -> None:
    # Three windows and a bit, so that rows leave.
    events = draw(33_000, 40, seed=5)
    right = answers(events)
    assert list(zip(right.counts.tolist(), right.sums.tolist(), strict=True)) == list(slow_answers(events))


@given(seed=SEEDS, count=st.integers(1, 300))
def test_a_shorter_stream_is_the_beginning_of_a_longer_one(seed: int, count: int) -> None:
    events = draw(count + 50, 7, seed)
    part = draw(count, 7, seed)
    assert (events.first(count).keys == part.keys).all() and (events.first(count).values == part.values).all()
    assert (answers(events).sums[:count] == answers(part).sums).all()


def test_every_contestant_reads_the_same_bytes() -> None:
    key, value, timestamp = draw(10, 3, seed=1).records(4, 5)[0]
    event = orjson.loads(value)
    assert (event["id"], event["event_time"], event["customer"]) == ("4", FIRST_MS + 4, key.decode())
    assert timestamp == FIRST_MS + 4


def right_outputs(events: Events, *, ours: bool) -> list[bytes]:
    right = answers(events)
    rows = zip(events.keys.tolist(), events.times.tolist(), right.counts.tolist(), right.sums.tolist(), strict=True)
    if ours:
        made: list[dict[str, object]] = [
            {"id": str(number), "features": [float(count), float(total)]}
            for number, (_, _, count, total) in enumerate(rows)
        ]
    else:
        made = [
            {"k": f"k{key:06d}", "w": time // WINDOW_MS * WINDOW_MS, "n": count, "s": total}
            for key, time, count, total in rows
        ]
    return [orjson.dumps(output) for output in made]


@pytest.mark.parametrize("ours", [True, False])
@given(seed=SEEDS)
def test_right_outputs_in_any_order_are_right(ours: bool, seed: int) -> None:
    events = draw(400, 9, seed)
    outputs = right_outputs(events, ours=ours)
    np.random.default_rng(seed).shuffle(outputs)
    ledger = Ledger(events, ours=ours)
    ledger.enter(outputs[:100])
    assert not ledger.verdict().right, "some are still missing"
    ledger.enter(outputs[100:])
    assert ledger.verdict().right


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_missing_repeated_or_wrong_is_counted(ours: bool) -> None:
    events = draw(50, 3, seed=2)
    outputs = right_outputs(events, ours=ours)
    bad_sum = orjson.loads(outputs[7])
    if ours:
        bad_sum["features"][1] += 1
    else:
        bad_sum["s"] += 1
    ledger = Ledger(events, ours=ours)
    ledger.enter([*outputs[:5], outputs[3], outputs[6], orjson.dumps(bad_sum), *outputs[8:]])
    ledger.enter([b"{}", None, b"not json", b'{"id":"-1","features":[1,1]}', b'{"k":"k1","w":1,"n":1,"s":1}'])
    verdict = ledger.verdict()
    assert (verdict.outputs, verdict.missing, verdict.repeated, verdict.wrong) == (55, 1, 1, 6)
    assert not verdict.right


def test_a_ratio_is_the_median_of_paired_rounds() -> None:
    # A round in which the whole machine was slow changes both figures and not their ratio.
    pairs = [Pair(1, 100.0, 50.0), Pair(2, 10.0, 5.0), Pair(3, 100.0, 20.0)]
    summary = summarize(pairs)
    assert (summary["ratio"], summary["lowest"], summary["highest"], summary["rounds"]) == (2.0, 2.0, 5.0, 3)
    assert table({"quix": pairs, "faust": []}) == {"quix": 2.0}
    with pytest.raises(ValueError, match="no rounds"):
        summarize([])


def test_the_states_share_is_the_cpu_that_runs_without_it_do_not_need() -> None:
    # 20 µs an event with state and 15 µs without.
    assert state_share([50_000.0], [1e6 / 15]) == 0.25


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 1]), (2, [1, 2]), (100, [50, 99]), (1_000, [500, 990])])
def test_a_percentile_is_a_value_that_was_measured(count: int, expected: list[float]) -> None:
    assert percentiles(range(count, 0, -1)) == expected


@pytest.mark.parametrize(
    ("given_arguments", "complaint"),
    [
        (["--peers", "faust,flink"], "unknown flink; known are faust, quix, bytewax, hand"),
        (["--workloads", "b9"], "unknown b9"),
        (["--workloads", " "], "name at least one"),
        (["--rounds", "0"], "0 is not between 1 and 100"),
        (["--events", "many"], "'many' is not a whole number"),
        (["--compression", "gzip"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(
    given_arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        arguments.parse(given_arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_names_are_taken_once_and_in_order() -> None:
    options = arguments.parse(["--peers", "quix, hand,quix", "--workloads", "b2,engine", "--events", "20_000"])
    assert (options.peers, options.workloads, options.events) == (("quix", "hand"), ("b2", "engine"), 20_000)
    assert arguments.parse(["--peers", ""]).peers == ()


def test_every_peer_has_its_program_and_pinned_requirements() -> None:
    for name, one in PEERS.items():
        assert name == one.name
        assert (PEERS_FOLDER / one.program).is_file()
        assert all("==" in requirement for requirement in one.requirements)
        assert 0 < one.share <= 1


def test_another_pin_or_another_python_is_another_environment() -> None:
    names = {environment_name(["a==1"], "3.11"), environment_name(["a==2"], "3.11"), environment_name(["a==1"], "3.12")}
    assert len(names) == 3


def test_an_environment_that_cannot_be_made_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EnvironmentUnusable, match="The environment of hand cannot be made") as refused:
        prepare(PEERS["hand"], tmp_path / "file" / "below", lambda _: None)
    assert "\n" not in refused.value.message and refused.value.hint


def test_the_benchmarks_pipeline_file_is_right() -> None:
    pipeline = parse_pipeline(pipeline_text("b1-1-tidemill", "memory"))
    assert (pipeline.name, pipeline.features.state) == ("b1-1-tidemill", "memory")
    assert [(one.aggregate, one.field) for one in pipeline.features.stages[0].features] == [
        ("count", None),
        ("sum", "amount"),
    ]
    assert pipeline_text("x", "changelog").count("window: {type: tumbling, size: 10s}") == 2


def payments() -> Payments:
    """Four payments of one customer at one terminal over 40 days, the second fraud, and one of another."""
    day = 86_400_000
    times = np.array([0, 1 * day, 9 * day, 9 * day + 1, 39 * day], np.int64)
    column = np.array([1, 1, 1, 2, 1], np.int64)
    cents = np.array([1_000, 500, 250, 777, 100], np.int64)
    frauds = np.array([0, 1, 0, 0, 0], np.int64)
    return Payments(times, column, column, cents, frauds, times + day)


def test_the_fifteen_features_are_told_from_columns() -> None:
    amount, weekend, night, *rest = features(payments())[2].tolist()
    # 1970-01-10 was a Saturday.
    assert (amount, weekend, night) == (2.5, 1.0, 1.0)
    # 1 d, 7 d and 30 d of the customer, itself included; then of the terminal, all ending 7 days before.
    assert rest == [1, 2.5, 1, 2.5, 3, 17.5 / 3, 0, 0.0, 2, 0.5, 2, 0.5]


def test_labels_come_when_they_are_known_and_never_twice() -> None:
    parts = [*payments().merged(0, 3), *payments().merged(3, 5)]
    # Known at the very moment of the next payment: they follow it.
    labels_after = {1: [0, 1], 3: [2, 3]}
    expected = [
        entry
        for event in range(5)
        for entry in [(False, event), *((True, label) for label in labels_after.get(event, []))]
    ]
    assert parts == expected
