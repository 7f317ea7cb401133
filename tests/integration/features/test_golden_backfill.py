"""A backfill of the published transactions gives the published features."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.golden import TIED_IDS, Transactions, fraud_data, load_features, load_transactions
from tidemill.cli.__main__ import main
from tidemill.domain.durations import DAY_MS

FIRST_DAY_COMPARED = 115
DAYS_COMPARED = 3
"""Of the 21 published; `test_golden` compares all of them, with the same operators behind."""
LONGEST_LOOK_BACK_DAYS = 38


def write(data: Transactions, folder: Path) -> tuple[Path, Path]:
    """Events in the published order; each label is known a seeded 1 to 6.9 days after its event."""
    events, labels = folder / "events.parquet", folder / "labels.parquet"
    columns: dict[str, object] = {
        "id": data.ids.astype(str),
        "event_time": data.times,
        "customer": np.char.add("c-", data.customers.astype(str)),
        "terminal": np.char.add("t-", data.terminals.astype(str)),
    }
    pq.write_table(pa.table({**columns, "amount": data.amounts}), events)
    known = data.times + np.random.default_rng(3).integers(DAY_MS, int(6.9 * DAY_MS), len(data.ids))
    order = np.argsort(known, kind="stable")
    pq.write_table(pa.table({**columns, "known_at": known, "fraud": data.frauds}).take(pa.array(order)), labels)
    return events, labels


@pytest.mark.timeout(900)
def test_the_published_features_come_out_of_a_backfill(tmp_path: Path) -> None:
    folder = fraud_data()
    names, published = load_features(folder)
    data = load_transactions(folder, FIRST_DAY_COMPARED - LONGEST_LOOK_BACK_DAYS)
    days = LONGEST_LOOK_BACK_DAYS + DAYS_COMPARED
    data = data.until(int(np.searchsorted(data.times, data.times[0] // DAY_MS * DAY_MS + days * DAY_MS)))
    events, labels = write(data, tmp_path)
    out = tmp_path / "features.parquet"
    files = ["--input", str(events), "--labels", str(labels), "--arrival", "event_time", "--out", str(out)]
    with pytest.raises(SystemExit) as left:
        main(["features", "backfill", "fraud", *files])
    assert left.value.code in (0, None)

    table = pq.read_table(out)
    row_of = {int(id_): row for row, id_ in enumerate(table["id"].to_pylist())}
    published = published[published[:, 0] <= data.ids.max()]
    assert len(published) > 9_000 * DAYS_COMPARED
    ids = published[:, 0].astype(np.int64)
    rows = np.array([row_of[id_] for id_ in ids.tolist()])
    untied = ~np.isin(ids, TIED_IDS)
    features = table.column_names[table.column_names.index("weekend") :]
    assert len(features) == len(names) - 1
    for column, name in enumerate(features, start=1):
        got = table[name].to_numpy()[rows]
        expected = published[:, column]
        unit = 10.0 ** (np.floor(np.log10(np.maximum(np.abs(expected), 1e-3))) - 9)
        equal = np.abs(got - expected) <= unit * (1 + 1e-6)
        assert equal[untied].all(), f"{name} differs at ids {ids[untied & ~equal][:5]}"
