"""B3: the shipped fraud pipeline's two feature stages as the two processes they are, events and labels from Kafka."""

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import orjson

from featurebench.feeding import Fed
from featurebench.fraudfeed import Payments, features, simulated
from featurebench.measuring import Bench, Job, Measured, say
from featurebench.ratios import figure, state_share
from featurebench.windowing import service_environment, stage_command, stage_topics, write_fraud_pipeline

STAGES = ("customer", "terminal")
WARM_UP_SHARE = 0.25
"""Of the events, so that the measured part begins with windows that hold something."""


class Vectors:
    """What came out, by payment; `enter` may be given outputs in any order."""

    def __init__(self, payments: Payments) -> None:
        self._right = features(payments)
        self._got = np.full_like(self._right, np.nan)
        self._seen = np.zeros(len(payments), np.int64)
        self._foreign = 0

    def enter(self, values: list[bytes | None]) -> None:
        for value in values:
            try:
                output = orjson.loads(value or b"")
                row = int(output["id"])
                self._got[row] = output["features"]
                self._seen[row] += 1
            except (ValueError, LookupError, TypeError):
                self._foreign += 1

    def check(self) -> dict[str, int | bool]:
        """Equal means to the last bit: each feature is one rounded division on both sides."""
        seen = self._seen > 0
        wrong = int((self._got[seen] != self._right[seen]).any(axis=1).sum()) + self._foreign
        missing, repeated = int((~seen).sum()), int((self._seen[seen] - 1).sum())
        return {
            "events": len(self._seen),
            "missing": missing,
            "repeated": repeated,
            "wrong": wrong,
            "right": missing == repeated == wrong == 0,
        }


def run(bench: Bench, events: int, rounds: int, seed: int, compression: str) -> dict[str, Any]:
    """All rounds, each with the changelog and then without, which tells what state costs.

    Raises TidemillError if a stage fails.
    """
    payments = simulated(events, seed)
    runs: dict[str, list[dict[str, Any]]] = {"changelog": [], "memory": []}
    for number in range(1, rounds + 1):
        for state, done in runs.items():
            vectors = Vectors(payments)
            measured, labels = _round(bench, payments, vectors, f"b3-{number}-{state}", compression)
            done.append(
                {"round": number, "state": state, **measured.as_dict(), "labels": labels, "check": vectors.check()}
            )
            rate = measured.events_per_cpu_second
            say(f"b3 round {number} {state:>9}: {rate:>9,.0f} transactions per CPU-second over both stages")
    durable = runs["changelog"]
    rates = {state: [run["events_per_cpu_second"] for run in done] for state, done in runs.items()}
    broker = median(1e6 * run["broker_cpu_seconds"] / run["events"] for run in durable)
    return {
        "figures": {
            "transactions_per_cpu_second_both_stages": figure(median(rates["changelog"])),
            "broker_cpu_us_per_transaction": figure(broker),
            "state_share_of_cpu": state_share(rates["changelog"], rates["memory"]),
        },
        "all_right": all(run["check"]["right"] for done in runs.values() for run in done),
        "runs": [*durable, *runs["memory"]],
    }


def _round(bench: Bench, payments: Payments, vectors: Vectors, name: str, compression: str) -> tuple[Measured, int]:
    """One run, and how many labels its backlog held."""
    file, pipeline = write_fraud_pipeline(name, bench.folder / "pipelines", name.rpartition("-")[2])
    environment = service_environment(bench.bootstrap_servers, compression)
    warm_up = round(len(payments) * WARM_UP_SHARE)
    job = Job(
        name=name,
        topics=stage_topics(pipeline, STAGES),
        commands=[stage_command(str(file), stage, environment, bench.folder / "data" / name) for stage in STAGES],
        warm_up=_records(payments, 0, warm_up, name),
        warm_up_outputs=warm_up,
        backlog=_records(payments, warm_up, len(payments), name),
        backlog_outputs=len(payments) - warm_up,
        output_topic=pipeline.topic("features"),
        enter=vectors.enter,
    )
    labels = sum(is_label for is_label, _ in payments.merged(warm_up, len(payments)))
    return bench.run(job), labels


def _records(payments: Payments, begin: int, end: int, name: str) -> Iterator[Fed]:
    for is_label, row in payments.merged(begin, end):
        key, value, time = payments.label(row) if is_label else payments.event(row)
        yield Fed(f"{name}-labels" if is_label else f"{name}-events", key, value, time)
