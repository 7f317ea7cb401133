"""The Elec2 electricity market data: rolling means and last values of its six columns, live and from history.

Needs `elec2` of the published data (see `support/golden.py`).
"""

import gzip
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from support.golden import published_data
from support.livechain import live_vectors
from tidemill.cli.__main__ import main
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord

START = 831_513_600_000
HALF_HOUR = 1_800_000
COLUMNS = ("period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
SCALE = 1_000_000
"""The file gives six digits."""
DAY, WEEK = 48, 336
"""Half-hours."""
LAST = 3


def pipeline_file() -> str:
    text, _ = pipeline_text("fraud")
    stage = ["  stages:", "    - entity: customer", "      features:"]
    for column in COLUMNS:
        stage.append(f"        - {{name: {column}_mean_1d, aggregate: mean, field: {column}, window: 1d}}")
        stage.append(f"        - {{name: {column}_mean_7d, aggregate: mean, field: {column}, window: 7d}}")
        stage.append(f"        - {{name: {column}_last, aggregate: last, k: {LAST}, field: {column}, window: 1d}}")
    begin, end = text.index("  stages:"), text.index("\noutcomes:")
    text = text[:begin] + "\n".join(stage) + "\n" + text[end:]
    numbers = "".join(f"    {column}: {{scale: {SCALE}, min: 0, max: 1}}\n" for column in COLUMNS)
    text = text.replace("    amount: {scale: 100, min: 0, max: 100000}\n", numbers)
    taken = "        amount: {from: amount, cast: number, min: 0, max: 100000}\n"
    text = text.replace(taken, "".join(f"        {column}: {{cast: number}}\n" for column in COLUMNS))
    text = text.replace("schema: fraud-event", "schema: fraud-raw-payment")  # one that takes further fields
    return text.replace("[weekend, night]", "[period_last_1]").replace(
        "field: amount, above: 220", "field: transfer, above: 0.5"
    )


@pytest.fixture(scope="module")
def market() -> NDArray[np.float64]:
    """float64[half-hours, 6]."""
    with gzip.open(published_data("elec2") / "elec.csv.gz", "rt") as file:
        assert file.readline().strip().split(",")[:6] == list(COLUMNS)
        return np.loadtxt(file, delimiter=",", usecols=range(6))


def by_hand(market: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each feature from its definition, in integers of a millionth; NaN where there were not so many half-hours."""
    units = np.rint(market * SCALE).astype(np.int64)
    out = []
    for column in units.T:
        sums = np.concatenate([[0], np.cumsum(column)])
        for length in (DAY, WEEK):
            ends = np.arange(1, len(column) + 1)
            begins = np.maximum(0, ends - length)
            out.append((sums[ends] - sums[begins]) / ((ends - begins) * SCALE))
        for back in range(LAST):
            values = np.full(len(column), np.nan)
            values[back:] = column[: len(column) - back] / SCALE
            out.append(values)
    return np.array(out).T


def records(pipeline: Pipeline, market: NDArray[np.float64]) -> list[OutRecord]:
    found = []
    for number, row in enumerate(market.tolist()):
        time = START + number * HALF_HOUR
        value = {"v": 1, "id": f"h{number}", "event_time": time, "customer": "nsw", "terminal": "x"}
        value |= dict(zip(COLUMNS, row, strict=True))
        found.append(OutRecord(pipeline.topic("events"), b"nsw", orjson.dumps(value), time))
    return found


def test_live_and_backfilled_features_are_those_by_hand(market: NDArray[np.float64], tmp_path: Path) -> None:
    file = tmp_path / "electricity.yaml"
    file.write_text(pipeline_file())
    pipeline = parse_pipeline(file.read_text(), "electricity.yaml")
    expected = by_hand(market)
    assert expected.shape == (45_312, 30)

    live = [orjson.loads(value)["features"] for value in live_vectors(pipeline, records(pipeline, market), 4, 1)]
    np.testing.assert_array_equal(np.array(live, np.float64), expected)

    times = START + HALF_HOUR * np.arange(len(market))
    ids = [f"h{number}" for number in range(len(market))]
    columns = {"id": ids, "event_time": times, "customer": ["nsw"] * len(ids), "terminal": ["x"] * len(ids)}
    pq.write_table(pa.table({**columns, **dict(zip(COLUMNS, market.T, strict=True))}), tmp_path / "events.parquet")
    files = ["--input", str(tmp_path / "events.parquet"), "--arrival", "event_time", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        main(["features", "backfill", str(file), *files, "--workers", "1"])
    assert left.value.code in (0, None)
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == ids
    found = np.array([table[name].to_numpy(zero_copy_only=False) for name in pipeline.feature_names]).T
    np.testing.assert_array_equal(found, expected)
