"""The published transactions and feature values of the Fraud Detection Handbook, as the stream would see them.

The data lies beside the repository in `../shared/data`, or where TIDEMILL_TEST_DATA says.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyarrow import csv

from tidemill.domain.durations import DAY_MS
from tidemill.runtime.service import Record

START_MS = 1_522_540_800_000
"""2018-04-01 00:00 UTC, second 0 of the file."""

TIED_IDS = (1_240_489, 1_240_490)
"""Two payments of one card in one second; the publisher counted the later id first."""


def fraud_data() -> Path:
    return published_data("fraud_handbook")


def published_data(name: str) -> Path:
    """The folder of the files; skips where it is absent, except in CI, where that is a failure."""
    root = Path(os.environ.get("TIDEMILL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    folder = root / name
    if not folder.is_dir():
        message = f"{folder} is absent; set TIDEMILL_TEST_DATA to the folder that holds {name}/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@dataclass(frozen=True)
class Transactions:
    """Columns of the published file, in its order (time, then id)."""

    ids: NDArray[np.int64]
    times: NDArray[np.int64]
    customers: NDArray[np.int64]
    terminals: NDArray[np.int64]
    amounts: NDArray[np.float64]
    frauds: NDArray[np.int64]

    def until(self, row: int) -> "Transactions":
        """The first rows."""
        columns = (self.ids, self.times, self.customers, self.terminals, self.amounts, self.frauds)
        return Transactions(*(column[:row] for column in columns))


def load_transactions(folder: Path, from_day: int) -> Transactions:
    table = csv.read_csv(folder / "transactions.csv.gz")
    columns = [column.to_numpy() for column in table.columns]
    first = int(np.searchsorted(columns[1], from_day * 86_400))
    ids, seconds, customers, terminals, amounts, frauds = (column[first:] for column in columns[:6])
    return Transactions(ids, START_MS + seconds * 1_000, customers, terminals, amounts, frauds)


def load_features(folder: Path) -> tuple[list[str], NDArray[np.float64]]:
    """(column names, float64[n, id + 14 features]); the day column is left out."""
    table = csv.read_csv(folder / "features_2018-07-25_2018-08-14.csv.gz").drop_columns(["TX_TIME_DAYS"])
    return table.column_names, np.column_stack([column.to_numpy() for column in table.columns])


def stream(data: Transactions, partitions: int, seed: int, batch: int) -> Iterator[list[Record]]:
    """Events and labels as the first stage reads them: by timestamp over all partitions, events first at equal ones.

    Each label becomes known a seeded 1 to 6.9 days after its event.
    """
    count = len(data.ids)
    known = data.times + np.random.default_rng(seed).integers(DAY_MS, int(6.9 * DAY_MS), count)
    order = np.argsort(np.concatenate([data.times, known]), kind="stable")
    records: list[Record] = []
    for begin in range(0, len(order), batch):
        part = order[begin : begin + batch]
        rows = part % count
        columns = (data.ids, data.times, data.customers, data.terminals, data.amounts, data.frauds, known)
        for place, id_, ts, customer, terminal, amount, fraud, at in zip(
            part.tolist(), *(column[rows].tolist() for column in columns), strict=True
        ):
            key = b"c-%05d" % customer
            event = b'{"v":1,"id":"%d","event_time":%d,' % (id_, ts)
            entities = b'"customer":"%b","terminal":"t-%05d"' % (key, terminal)
            if place < count:
                value = event + entities + b',"amount":%b}' % repr(amount).encode()
                records.append(Record("fraud-events", customer % partitions, place, ts, key, value))
            else:
                value = event + b'"known_at":%d,' % at + entities + b',"fraud":%d}' % fraud
                records.append(Record("fraud-labels", customer % partitions, place, at, key, value))
        yield records
        records = []
