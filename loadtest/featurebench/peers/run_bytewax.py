"""bytewax: Kafka in and out, a stateful map between them; B2 gives it a recovery store.

Its window operators emit a window when it closes and not for each event, so the state is kept by `stateful_map`, as
its documentation does for a running aggregate.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSource
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

WINDOW_MS = 10_000

settings = os.environ
brokers = [settings["BENCH_BOOTSTRAP"]]
loads, dumps = orjson.loads, orjson.dumps


def keyed(message: Any) -> tuple[str, dict[str, Any]]:
    event = loads(message.value)
    return event["customer"], event


def count(
    held: tuple[int, int, int] | None, event: dict[str, Any]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    start = event["event_time"] // WINDOW_MS * WINDOW_MS
    if held is not None and held[0] == start:
        now = (start, held[1] + 1, held[2] + event["amount"])
    else:
        now = (start, 1, event["amount"])
    return now, now


def answer(pair: tuple[str, tuple[int, int, int]]) -> KafkaSinkMessage:
    key, (start, number, total) = pair
    return KafkaSinkMessage(key.encode(), dumps({"k": key, "w": start, "n": number, "s": total}))


flow = Dataflow("bench")
# Batches of 1,000 are the connector's default, "a suitable starting point for higher throughput dataflows".
source = KafkaSource(
    brokers,
    [settings["BENCH_INPUT"]],
    batch_size=1_000,
    add_config={"fetch.queue.backoff.ms": "5", "check.crcs": "false", "group.id": settings["BENCH_NAME"]},
)
messages = op.input("in", flow, source)
states = op.stateful_map("count", op.map("key", messages, keyed), count)
outputs = op.map("answer", states, answer)
kop.output(
    "out",
    outputs,
    brokers=brokers,
    topic=settings["BENCH_OUTPUT"],
    add_config={
        "linger.ms": "5",
        "compression.type": settings["BENCH_COMPRESSION"],
        "queue.buffering.max.messages": "500000",
    },
)

recovery = None
if settings["BENCH_DURABLE"] == "1":
    folder = Path(settings["BENCH_FOLDER"]) / "recovery"
    folder.mkdir(parents=True)
    init_db_dir(folder, 1)
    recovery = RecoveryConfig(folder)
# An epoch, at whose end state is saved, lasts 10 s by default, which is also the cheapest in CPU.
cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=recovery)
