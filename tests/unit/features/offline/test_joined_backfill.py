"""The same joins over history: files of events, labels and second streams give what the live chain gives."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.joinedpipeline import JOINED_FRAUD, JOINED_TEXT
from support.joinedstream import payments_limits_and_logins, rows
from support.livechain import live_vectors
from tidemill.cli.__main__ import main
from tidemill.errors import ConfigurationError
from tidemill.features.offline.backfill import Request, Vector, backfill_files
from tidemill.features.offline.bounds import parse_bound, shown
from tidemill.features.offline.fileinput import Files, split
from tidemill.runtime.service import OutRecord

PARTITIONS = 4
STREAM = [
    record
    for record in payments_limits_and_logins(1, count=1_200, days=40, seed=3)
    if b'"end' not in (record.value or b"")
]


def write(path: Path, topic: str, stream: Sequence[OutRecord] = STREAM) -> Path:
    pq.write_table(pa.Table.from_pylist(rows(stream, topic)), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    return Files(
        events=(write(folder / "events.parquet", "fraud-events"),),
        labels=(write(folder / "labels.parquet", "fraud-labels"),),
        arrival="arrived",
        streams={name: (write(folder / f"{name}.parquet", f"fraud-stream-{name}"),) for name in ("limits", "logins")},
    )


def computed(folder: Path, files: Files, workers: int = 1) -> tuple[list[Vector], dict[str, Counter[str]]]:
    request = Request(JOINED_FRAUD, temp_dir=folder, workers=workers)

    def prepare(count: int, into: Path) -> object:
        return split(JOINED_FRAUD, files, count, into, (None, None))

    with backfill_files(request, prepare, lambda *_: None) as result:  # type: ignore[arg-type]
        return list(result.vectors), {name: report.refused for name, report in result.reports.items()}


def test_vectors_are_those_of_the_live_chain_to_the_last_bit(files: Files, tmp_path: Path) -> None:
    vectors, refused = computed(tmp_path, files)
    live = [orjson.loads(value) for value in live_vectors(JOINED_FRAUD, STREAM, PARTITIONS)]
    assert [(at.id, at.features) for at in vectors] == [(row["id"], row["features"]) for row in live]
    names = JOINED_FRAUD.feature_names
    for name in ("card_limit", "logins_1h", "terminal_logins_1h", "terminal_customers_1h"):
        assert len({row["features"][names.index(name)] for row in live}) > 1, f"{name} never changes"
    assert refused["customer"]["bad_record"] == 1
    assert computed(tmp_path, files, workers=2)[0] == vectors


def test_offsets_of_streams_are_read_as_they_are_printed() -> None:
    positions = {"events/0": 1, "labels/0": 2, "stream-card_limits/0": 3, "stream-logins/10": 4}
    assert parse_bound(shown(positions), "--to").offsets == positions
    with pytest.raises(ConfigurationError, match="'limits/0=3' is not a new offset"):
        parse_bound("events/0=1,limits/0=3", "--to")


def backfill(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["features", "backfill", *arguments])
    return (int(left.value.code or 0), *capsys.readouterr())


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ([], "features join the stream 'limits', and no file of its records is given"),
        (["limits={limits}"], "the stream 'logins'"),
        (["limits={limits}", "logins={logins}", "quotes={limits}"], "joins a stream 'quotes'"),
        (["limits"], "--stream: 'limits' is not NAME=FILE"),
        (["limits={logins}", "logins={logins}"], "has no column limit"),
    ],
)
def test_streams_that_are_missing_unknown_or_malformed_are_refused(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], streams: list[str], said: str
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(JOINED_TEXT)
    paths = {name: str(path) for name, (path,) in files.streams.items()}
    given = [part for stream in streams for part in ("--stream", stream.format(**paths))]
    common = [str(file), "--input", str(files.events[0]), "--no-labels", "--arrival", "arrived", "--workers", "1"]
    code, _, err = backfill(capsys, *common, *given, "--out", str(tmp_path / "out.parquet"))
    assert (code, said in " ".join(err.split())) == (2, True), err
    assert not (tmp_path / "out.parquet").exists()


def test_the_command_reads_the_files_of_each_stream(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "pipeline.yaml", tmp_path / "out.parquet"
    file.write_text(JOINED_TEXT)
    given = [part for name, (path,) in files.streams.items() for part in ("--stream", f"{name}={path}")]
    common = [str(file), "--input", str(files.events[0]), "--labels", str(files.labels[0]), "--arrival", "arrived"]
    code, text, err = backfill(capsys, *common, *given, "--workers", "1", "--out", str(out), "--json")
    assert code == 0, err
    position = json.loads(text)["position"]
    assert position[str(files.streams["limits"][0])] == len(rows(STREAM, "fraud-stream-limits"))
    expected = [[at.id, *at.features] for at in computed(tmp_path, files)[0]]
    assert [
        [row["id"], *(row[name] for name in JOINED_FRAUD.feature_names)] for row in pq.read_table(out).to_pylist()
    ] == expected
    code, _, err = backfill(capsys, str(file), *given, "--out", str(out))
    assert (code, "--input kafka goes with no file" in err) == (2, True)
