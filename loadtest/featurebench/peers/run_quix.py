"""quixstreams: a dict in a stateless function (B1), or its own tumbling window on RocksDB with a changelog (B2)."""

import os
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum

WINDOW_MS = 10_000

settings = os.environ
durable = settings["BENCH_DURABLE"] == "1"

app = Application(
    broker_address=settings["BENCH_BOOTSTRAP"],
    consumer_group=settings["BENCH_NAME"],
    auto_offset_reset="earliest",
    # docs, "Processing Guarantees": exactly-once puts outputs, changelog and offsets of a checkpoint in a transaction.
    # The checkpoint interval stays at its default of 5 s, which is the cheapest in CPU.
    processing_guarantee="exactly-once" if durable else "at-least-once",
    state_dir=settings["BENCH_FOLDER"],
    # Their default is 100 ms; 5 ms reads a backlog without pauses.
    consumer_extra_config={"fetch.queue.backoff.ms": 5, "check.crcs": False},
    producer_extra_config={
        "linger.ms": 5,
        "compression.type": settings["BENCH_COMPRESSION"],
        "queue.buffering.max.messages": 500_000,
        "retry.backoff.ms": 5,
    },
    loglevel="WARNING",
    auto_create_topics=True,
)
events = app.topic(settings["BENCH_INPUT"], key_deserializer="str", value_deserializer="json")
answers = app.topic(settings["BENCH_OUTPUT"], key_serializer="str", value_serializer="json")
frame = app.dataframe(events)

if durable:

    def answer(window: dict[str, Any], key: str, timestamp: int, headers: Any) -> dict[str, Any]:
        return {"k": key, "w": window["start"], "n": window["n"], "s": window["s"]}

    # docs, "Windowing": `current` emits the window for each event that updates it.
    frame = frame.tumbling_window(WINDOW_MS).agg(n=Count(), s=Sum(column="amount")).current()
    frame = frame.apply(answer, metadata=True)
else:
    state: dict[str, tuple[int, int, int]] = {}

    def count(event: dict[str, Any], key: str, timestamp: int, headers: Any) -> dict[str, Any]:
        start = event["event_time"] // WINDOW_MS * WINDOW_MS
        held = state.get(key)
        if held is not None and held[0] == start:
            now = (start, held[1] + 1, held[2] + event["amount"])
        else:
            now = (start, 1, event["amount"])
        state[key] = now
        return {"k": key, "w": start, "n": now[1], "s": now[2]}

    frame = frame.apply(count, metadata=True)

frame.to_topic(answers)
app.run()
