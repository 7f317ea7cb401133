"""faust-streaming: a dict in the agent (B1), or a tumbling Table in memory with its changelog topic (B2)."""

import os
import sys

import faust

WINDOW_S = 10.0
WINDOW_MS = 10_000

settings = os.environ
durable = settings["BENCH_DURABLE"] == "1"
compression = settings["BENCH_COMPRESSION"]

app = faust.App(
    settings["BENCH_NAME"],
    broker=f"kafka://{settings['BENCH_BOOTSTRAP']}",
    store="memory://",
    datadir=settings["BENCH_FOLDER"],
    topic_partitions=int(settings["BENCH_PARTITIONS"]),
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
    # docs, stream_buffer_maxsize: 131,072 "may let you process over 30,000 events a second".
    stream_buffer_maxsize=131_072,
    broker_check_crcs=False,
    # Linger and batch as for the others; both are in the documented producer settings.
    producer_linger=0.005,
    producer_max_batch_size=1_048_576,
    producer_compression_type=None if compression == "none" else compression,
    key_serializer="raw",
    value_serializer="json",  # orjson, since it is installed
)
events = app.topic(settings["BENCH_INPUT"], key_type=bytes, value_serializer="json")
answers = app.topic(settings["BENCH_OUTPUT"], key_serializer="raw", value_serializer="json")

if durable:
    # A (count, sum) pair a window: one Table, so one changelog record an event, where two Tables would write two.
    table = app.Table("windows", default=lambda: [0, 0], partitions=int(settings["BENCH_PARTITIONS"])).tumbling(
        WINDOW_S, expires=2 * WINDOW_S
    )
    # The stream's time is that of the Kafka record, which is the event's.
    windows = table.relative_to_stream()

    @app.agent(events)
    async def count(stream: faust.Stream) -> None:
        send = answers.send
        async for event in stream.events():
            value = event.value
            key = value["customer"]
            number, total = windows[key].value()
            number, total = number + 1, total + value["amount"]
            windows[key] = [number, total]
            start = value["event_time"] // WINDOW_MS * WINDOW_MS
            await send(key=event.key, value={"k": key, "w": start, "n": number, "s": total})

else:
    state: dict[str, tuple[int, int, int]] = {}

    @app.agent(events)
    async def count(stream: faust.Stream) -> None:
        send = answers.send
        async for event in stream.events():
            value = event.value
            key = value["customer"]
            start = value["event_time"] // WINDOW_MS * WINDOW_MS
            held = state.get(key)
            if held is not None and held[0] == start:
                now = (start, held[1] + 1, held[2] + value["amount"])
            else:
                now = (start, 1, value["amount"])
            state[key] = now
            await send(key=event.key, value={"k": key, "w": start, "n": now[1], "s": now[2]})


if __name__ == "__main__":
    # docs, "Installation", `faust[uvloop]`: the faster event loop.
    sys.argv = ["faust", "--loop", "uvloop", "worker", "--without-web", "-l", "warn"]
    app.main()
