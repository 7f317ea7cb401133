"""Changelogs as the audit compares them: read by the view of state that operators have, from the latest values."""

from collections.abc import Sequence

from chaosharness.statechecks import Holding, Row, Waiting
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.columns import hash_texts
from tidemill.features.core.holdings import JoinHoldings, WindowHoldings

Latest = dict[int, dict[bytes, bytes]]
"""The latest committed value of each key, by partition; deleted keys are left out."""
_AMOUNT, _CENTS = "amount", 100


def holdings(pipeline: Pipeline, index: int, latest: Latest) -> dict[str, Holding]:
    """What keyed stage `index` holds, by key."""
    held: dict[str, Holding] = {}
    view = WindowHoldings(pipeline, index)
    for entries in latest.values():
        for row in view.rows(entries):
            rows, flags = held.setdefault(str(row["key"]), Holding([], {}))
            time, name = int(row["event_time"] or 0), str(row["id_hash"])
            if row["kind"] == "event":
                amount = row.get(_AMOUNT)
                rows.append(Row(time, name, None if amount is None else round(float(amount) * _CENTS)))
            else:
                flags[time, name] = flags.get((time, name), 0) + int(row["label"] or 0)
    return held


def waiting(pipeline: Pipeline, latest: Latest) -> tuple[dict[int, list[Waiting]], int]:
    """The labels that the outcomes hold, by partition, and how many scores of challengers."""
    held: dict[int, list[Waiting]] = {}
    shadows = 0
    view = JoinHoldings(pipeline)
    for number, entries in latest.items():
        for row in view.rows(entries):
            if row["kind"] != "label":
                shadows += 1
                continue
            event_time, known_at, label = (int(row[name] or 0) for name in ("event_time", "known_at", "label"))
            held.setdefault(number, []).append(Waiting(str(row["key"]), event_time, known_at, label))
    return held, shadows


def hashes_of(names: Sequence[str]) -> dict[str, str]:
    """Each id's hash, as the view of state shows it."""
    hashes = (f"{value & 0xFFFF_FFFF_FFFF_FFFF:016x}" for value in hash_texts(list(names)).tolist())
    return dict(zip(names, hashes, strict=True))
