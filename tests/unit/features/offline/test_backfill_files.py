"""`tidemill features backfill` over Parquet files: the same bits as the live chain, however it is cut up."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.livechain import live_vectors
from support.paymentstream import START, payments_and_labels
from tidemill.cli.__main__ import main
from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.features.offline.backfill import Request, Vector, backfill_files
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.fileinput import Files, split
from tidemill.features.parquet import read_metadata
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord

FRAUD = load_pipeline("fraud")
PARTITIONS = 4
"""As the fraud pipeline plans them."""

STREAM = payments_and_labels("fraud", 1, count=1_500, days=50, seed=9)
MIDDLE = START + 25 * DAY_MS


def rows(stream: Sequence[OutRecord], kind: str) -> list[dict[str, Any]]:
    """Members of the events or labels, an event with its place in the log as `arrived`."""
    found = []
    for place, record in enumerate(stream):
        row = orjson.loads(record.value or b"")
        if record.topic.endswith(kind) and not row["id"].startswith("end"):
            found.append(row | {"arrived": place} if kind == "events" else row)
    return found


def write(path: Path, kind: str, stream: Sequence[OutRecord] = STREAM, row_group: int = 100) -> Path:
    pq.write_table(pa.Table.from_pylist(rows(stream, kind)), path, row_group_size=row_group)
    return path


def computed(folder: Path, files: Files, request: Request | None = None) -> tuple[list[Vector], dict[str, int]]:
    request = request or Request(FRAUD, temp_dir=folder)
    bounds = (request.start, request.end)
    with backfill_files(request, lambda n, into: split(FRAUD, files, n, into, bounds), lambda *_: None) as result:
        return list(result.vectors), dict(result.position)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    return Files(
        (write(folder / "events.parquet", "events"),), (write(folder / "labels.parquet", "labels"),), "arrived"
    )


@pytest.fixture(scope="module")
def live() -> list[tuple[str, list[float | None]]]:
    """Id and features, in order of id."""
    known = [record for record in STREAM if b'"end' not in (record.value or b"")]
    vectors = map(orjson.loads, live_vectors(FRAUD, known, PARTITIONS))
    return sorted((vector["id"], vector["features"]) for vector in vectors)


def by_id(vectors: Sequence[Vector]) -> list[tuple[str, list[float | None]]]:
    return sorted((vector.id, vector.features) for vector in vectors)


def test_vectors_are_those_of_the_live_chain_to_the_last_bit(
    files: Files, live: list[tuple[str, list[float | None]]], tmp_path: Path
) -> None:
    vectors, position = computed(tmp_path, files)
    assert by_id(vectors) == live
    known = [record for record in STREAM if b'"end' not in (record.value or b"")]
    assert [vector.id for vector in vectors] == [
        orjson.loads(at)["id"] for at in live_vectors(FRAUD, known, PARTITIONS)
    ]
    assert len(live) > 1_400
    assert any(features[10] not in (0.0, 1.0) for _, features in live), "labels were there in time"
    assert position == {
        str(files.events[0]): len(rows(STREAM, "events")),
        str(files.labels[0]): len(rows(STREAM, "labels")),
    }
    assert not list(tmp_path.iterdir()), "what was spilled is removed"


def test_several_processes_give_the_same_file(files: Files, tmp_path: Path) -> None:
    alone = computed(tmp_path, files)
    assert computed(tmp_path, files, Request(FRAUD, temp_dir=tmp_path, workers=3)) == alone


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), row_group=st.integers(1, 900), pieces=st.integers(1, 4))
def test_any_row_groups_and_any_number_of_files_give_the_same_vectors(
    files: Files, live: list[tuple[str, list[float | None]]], tmp_path: Path, seed: int, row_group: int, pieces: int
) -> None:
    chance = random.Random(seed)
    events = pa.Table.from_pylist(rows(STREAM, "events"))
    where = [chance.randrange(pieces) for _ in range(events.num_rows)]
    paths = []
    for number in range(pieces):
        paths.append(tmp_path / f"events-{number}.parquet")
        part = events.filter(pa.array([at == number for at in where]))
        pq.write_table(part, paths[-1], row_group_size=row_group)
    vectors, _ = computed(tmp_path, Files(tuple(paths), files.labels, "arrived"))
    assert by_id(vectors) == live


def test_two_ranges_that_meet_are_one(files: Files, tmp_path: Path) -> None:
    whole, _ = computed(tmp_path, files)
    before, position = computed(tmp_path, files, Request(FRAUD, end=Bound(MIDDLE, {}), temp_dir=tmp_path))
    behind, _ = computed(tmp_path, files, Request(FRAUD, start=Bound(MIDDLE, {}), temp_dir=tmp_path))
    assert by_id([*before, *behind]) == by_id(whole)
    assert {vector.event_time < MIDDLE for vector in before} == {True}
    first_behind = next(n for n, row in enumerate(rows(STREAM, "events")) if row["event_time"] >= MIDDLE)
    assert position[str(files.events[0])] == first_behind


def test_a_stage_alone_gives_its_own_columns(files: Files, tmp_path: Path) -> None:
    vectors, _ = computed(tmp_path, files, Request(FRAUD, stage="customer", temp_dir=tmp_path))
    known = [record for record in STREAM if b'"end' not in (record.value or b"")]
    expected = map(orjson.loads, live_vectors(FRAUD, known, PARTITIONS, stages=1))
    assert by_id(vectors) == sorted((vector["id"], vector["features"]) for vector in expected)
    assert {len(vector.features) for vector in vectors} == {9}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["features", "backfill", "fraud", "--workers", "1", *arguments])
        return (int(left.value.code or 0), *capsys.readouterr())

    return command


def arguments(files: Files, *more: str) -> list[str]:
    return ["--input", str(files.events[0]), "--labels", str(files.labels[0]), *more]


def test_the_command_writes_columns_and_metadata(files: Files, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "sub" / "out.parquet"
    code, text, err = run(*arguments(files, "--arrival", "arrived", "--out", str(out), "--row-group", "100", "--json"))
    report = json.loads(text)
    table, metadata = pq.read_table(out), read_metadata(out)
    assert code == 0
    assert table.column_names == ["id", "event_time", "customer", "terminal", *FRAUD.feature_names]
    vectors, position = computed(tmp_path, files)
    assert table.to_pylist() == [
        {"id": at.id, "event_time": at.event_time, "customer": at.entities[0], "terminal": at.entities[1]}
        | dict(zip(FRAUD.feature_names, at.features, strict=True))
        for at in vectors
    ]
    assert pq.ParquetFile(out).metadata.num_row_groups == -(-len(vectors) // 100)
    assert metadata["tidemill.feature_set"] == report["feature_set"] == feature_set_hash(FRAUD)
    assert json.loads(metadata["tidemill.position"]) == report["position"] == position
    customer = report["stages"]["customer"]
    assert customer["refused"]["late"] > 0
    assert customer["vectors"] == len(vectors), "labels that pass on are no vectors"
    assert 0 < customer["passed_on"] <= len(rows(STREAM, "labels"))
    assert "stage terminal" in err
    again = tmp_path / "again.parquet"
    run(*arguments(files, "--arrival", "arrived", "--out", str(again), "--row-group", "100"))
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "do not say in which order"),
        (["--arrival", "came"], "has no column came"),
        (["--arrival", "event_time"], "sort the file by event_time"),
        (["--arrival", "customer"], "must be a whole number, not string"),
        (["--arrival", "arrived", "--from", "yesterday"], "neither a time nor offsets"),
        (["--arrival", "arrived", "--from", "2018"], "neither a time nor offsets"),
        (["--arrival", "arrived", "--from", "2018-05-02", "--to", "2018-05-01"], "is not before --to"),
        (["--arrival", "arrived", "--from", "events/0=1"], "must be event times"),
        (["--arrival", "arrived", "--stage", "shop"], "no feature stage 'shop'"),
        (["--arrival", "arrived", "--input", "kafka"], "goes with no file"),
        (["--arrival", "arrived", "--input", "absent.parquet"], "cannot read absent.parquet"),
        (["--arrival", "arrived", "--no-labels"], "--labels and --no-labels are given"),
        (["--arrival", "arrived", "--temp-dir", "/absent"], "cannot write temporary files in /absent"),
        (["--arrival", "arrived", "--out", "/"], "/ is a folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_file(
    files: Files, tmp_path: Path, run: Run, more: list[str], said: str
) -> None:
    code, out, err = run(*arguments(files, "--out", str(tmp_path / "out.parquet"), *more))
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_a_column_of_another_type_or_a_hole_in_the_times_is_refused(files: Files, tmp_path: Path, run: Run) -> None:
    good = rows(STREAM, "events")[:3]
    for bad, said in (
        ([row | {"id": number} for number, row in enumerate(good)], "column id of"),
        ([row | {"amount": "1.0"} for row in good], "column amount of"),
        (
            [{**row, "event_time": None if number == 1 else row["event_time"]} for number, row in enumerate(good)],
            "row 1",
        ),
        ([row | {"event_time": -1} for row in good], "row 0"),
    ):
        path = tmp_path / "bad.parquet"
        pq.write_table(pa.Table.from_pylist(bad), path)
        out = str(tmp_path / "out.parquet")
        code, _, err = run("--input", str(path), "--no-labels", "--arrival", "arrived", "--out", out)
        assert (code, said in err) == (2, True), err


def test_a_row_that_a_stage_refuses_costs_itself_only(tmp_path: Path) -> None:
    good = rows(STREAM, "events")[:5]
    good[2]["amount"] = None
    path = tmp_path / "events.parquet"
    pq.write_table(pa.Table.from_pylist(good), path)
    vectors, _ = computed(tmp_path, Files((path,), (), "arrived"))
    assert {vector.id for vector in vectors} == {row["id"] for row in good if row["amount"] is not None}
