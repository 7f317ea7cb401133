"""What a backfill over Parquet files must not do silently, and what it says in place of a traceback."""

import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.featurestages import keyed_stage
from tidemill.cli.__main__ import main
from tidemill.domain.featurespec import StageSpec
from tidemill.errors import ConfigurationError, EnvironmentUnusable
from tidemill.features.offline.backfill import Request, backfill_files
from tidemill.features.offline.bounds import parse_bound
from tidemill.features.offline.fileinput import Files, split
from tidemill.features.offline.items import Item
from tidemill.features.offline.spill import SpillWriter
from tidemill.features.parquet import ParquetSink, read_batches
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

FRAUD = load_pipeline("fraud")
NOON = 1_700_000_000_000
EVENTS: list[dict[str, Any]] = [
    {"id": f"e{n}", "event_time": NOON + n, "customer": "c1", "terminal": "t1", "amount": 5.0, "channel": "app"}
    for n in range(1_000)
]
EVENTS[1]["channel"] = "web"


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.Table.from_pylist(EVENTS), path)
    return path


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`tidemill features backfill` of the events: exit code, and what was said."""

    def command(*arguments: str) -> tuple[int, str]:
        given = ["--input", str(events), "--arrival", "event_time", "--workers", "1"]
        with pytest.raises(SystemExit) as left:
            main(["features", "backfill", "fraud", *given, "--out", str(tmp_path / "out.parquet"), *arguments])
        return int(left.value.code or 0), " ".join(capsys.readouterr().err.split())

    return command


def test_text_fields_of_the_event_are_read_from_files_as_from_the_stream(events: Path, tmp_path: Path) -> None:
    features = (
        {"name": "by", "one_hot": "channel", "values": ("web", "app")},
        {"name": "webs", "aggregate": "share", "field": "channel", "equals": "web", "window": "1d"},
    )
    stage = StageSpec.model_validate({"entity": "customer", "features": features})
    pipeline = FRAUD.model_copy(
        update={
            "event": FRAUD.event.model_copy(update={"categories": ("channel",)}),
            "features": FRAUD.features.model_copy(update={"stages": (stage,)}),
        }
    )
    live = keyed_stage(pipeline, 0)
    live.add([Record("events", 0, 0, at["event_time"], b"c1", orjson.dumps(at)) for at in EVENTS], 0.0)
    expected = [orjson.loads(record.value or b"")["features"] for record in live.flush(0.0).records]
    files = Files((events,), (), "event_time")
    request = Request(pipeline, temp_dir=tmp_path)
    with backfill_files(
        request, lambda n, into: split(pipeline, files, n, into, (None, None)), lambda *_: None
    ) as result:
        assert [vector.features for vector in result.vectors] == expected
    assert expected[1][:2] == [1.0, 0.0]
    assert len(expected) == len(EVENTS)


def test_rates_of_labels_want_labels_or_a_word_that_there_are_none(run: Run, tmp_path: Path) -> None:
    code, said = run()
    assert (code, "fraud_rate" in said, "no file of labels is given" in said) == (2, True, True)
    assert not (tmp_path / "out.parquet").exists()
    assert run("--no-labels")[0] == 0
    assert run("--stage", "customer")[0] == 0, "it has no rate of labels"


@pytest.mark.parametrize("way", ["same", "link"])
def test_what_is_read_is_not_overwritten(run: Run, events: Path, tmp_path: Path, way: str) -> None:
    before = events.read_bytes()
    out = events
    if way == "link":
        out = tmp_path / "link.parquet"
        out.symlink_to(events)
    code, said = run("--no-labels", "--out", str(out))
    assert (code, "which is read" in said) == (2, True)
    assert events.read_bytes() == before


def test_a_folder_as_output_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    code, said = run("--no-labels", "--out", str(tmp_path / "folder"))
    assert (code, "is a folder" in said, "stage customer" in said) == (2, True, False)


def test_a_damaged_page_is_named_with_its_file(run: Run, events: Path) -> None:
    content = bytearray(events.read_bytes())
    content[4:2_000] = b"\xff" * 1_996
    events.write_bytes(bytes(content))
    code, said = run("--no-labels")
    assert (code, f"cannot read {events} behind row 0" in said, "Traceback" in said) == (2, True, False)


def test_texts_that_are_not_utf8_and_columns_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([b"\xff\xfe"]).view(pa.string())], ["id"]), path)
    with pytest.raises(ConfigurationError, match="utf-8"):
        list(read_batches(path, {"id": "text"}, 10))
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["id", "id"]), path)
    with pytest.raises(ConfigurationError, match="more than one column id"):
        list(read_batches(path, {"id": "text"}, 10))


def test_a_full_disk_is_an_error_with_a_next_step() -> None:
    full = Path("/dev/full")
    with pytest.raises(EnvironmentUnusable, match="No space left"), SpillWriter(full) as spill:
        spill.write(Item(0, 0, 0, True, 0, b"key", b"value"))
    with pytest.raises(EnvironmentUnusable, match="No space left"), SpillWriter(full) as spill:
        spill.write(Item(0, 0, 0, True, 0, b"key", bytes(1 << 20)))


def test_a_disk_that_fills_while_the_output_is_written_leaves_no_file(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(100_000).hex()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ParquetSink(tmp_path / "out.parquet", {"id": "text"}) as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(EnvironmentUnusable, match="cannot go on writing"):
                sink.write({"id": [noise]})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("20180401", 1_522_540_800_000),
        ("2018-04-01", 1_522_540_800_000),
        ("1522540800000", 1_522_540_800_000),
        ("1522540800", 1_522_540_800),
    ],
)
def test_digits_are_milliseconds_only_where_they_can_be_no_date(text: str, time: int) -> None:
    assert parse_bound(text, "--from").time == time


@pytest.mark.parametrize("text", ["2018", "0", "201804", "99999999"])
def test_other_digits_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a time nor offsets"):
        parse_bound(text, "--from")


@pytest.mark.parametrize("every", ["0s", "500ms"])
def test_verification_does_not_look_without_a_pause(every: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["features", "verify", "fraud", "--every", every, "--bootstrap-servers", "localhost:1"])
    assert (left.value.code, "is shorter than 1s" in capsys.readouterr().err) == (2, True)
