"""A small stream of payments, labels, card limits and logins for the pipeline of `joinedpipeline`."""

import random
from collections.abc import Sequence
from typing import Any

import orjson

from support.joinedpipeline import limit, login
from support.paymentstream import START, payments_and_labels
from tidemill.domain.durations import DAY_MS
from tidemill.runtime.service import OutRecord, Record


def payments_limits_and_logins(partitions: int, *, count: int, days: int, seed: int) -> list[OutRecord]:
    """Changes of limits and logins, some repeated, some at the time of a payment, some of customers that never pay, one
    of a value that was not declared; then `payments_and_labels`. The records of a topic are in the order of its log."""
    chance = random.Random(seed)
    stream = payments_and_labels("fraud", partitions, count=count, days=days, seed=seed)
    paid = [record.timestamp for record in stream if record.topic == "fraud-events"]
    more: list[Record] = [limit("wrong", START + DAY_MS, -1)]
    for number in range(count // 2):
        ts = chance.choice(paid) if chance.random() < 0.3 else START + chance.randrange(days * DAY_MS)
        customer, terminal = f"c{chance.randrange(45)}", f"t{chance.randrange(25)}"
        if chance.random() < 0.3:
            made = limit(f"l{number}", ts, chance.randrange(100, 500_000) / 100, customer)
        else:
            made = login(f"{number}", ts, customer, terminal)
        more += [made] * (2 if chance.random() < 0.05 else 1)
    records = [OutRecord(at.topic, at.key, at.value, at.timestamp) for at in more]
    return [*sorted(records, key=lambda record: record.timestamp), *stream]


def rows(stream: Sequence[OutRecord], topic: str) -> list[dict[str, Any]]:
    """Members of the records of one topic, with their place in the log as `arrived`."""
    found = []
    for place, record in enumerate(stream):
        row = orjson.loads(record.value or b"")
        if record.topic == topic and not row["id"].startswith("end"):
            row.pop("stream", None)
            found.append(row | {"arrived": place})
    return found
