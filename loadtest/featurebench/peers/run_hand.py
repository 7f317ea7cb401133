"""The hand-written loop: confluent-kafka, orjson and a dict, a transaction per 1,000 records.

B2 adds a changelog record for each key that the transaction changed. Nothing else is durable or safe about it: it
restores no state, checks no ownership and survives no error. It is the least that exactly-once can cost in Python.
"""

import os

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

BATCH = 1_000
WINDOW_MS = 10_000

settings = os.environ
common = {"bootstrap.servers": settings["BENCH_BOOTSTRAP"], "log_level": 3}
durable = settings["BENCH_DURABLE"] == "1"
changelog = settings["BENCH_CHANGELOG"]
output = settings["BENCH_OUTPUT"]

consumer = Consumer(
    common
    | {
        "group.id": settings["BENCH_NAME"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        # librdkafka waits 1 s when its queue is full; 5 ms reads a backlog without pauses at the same CPU.
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 20_000,
        "check.crcs": False,
    }
)
producer = Producer(
    common
    | {
        "transactional.id": settings["BENCH_NAME"],
        "linger.ms": 5,
        "compression.type": settings["BENCH_COMPRESSION"],
        "queue.buffering.max.messages": 500_000,
        # The coordinator refuses the next transaction for a moment; the default waits 100 ms before it asks again.
        "retry.backoff.ms": 5,
    }
)
consumer.subscribe([settings["BENCH_INPUT"]])
producer.init_transactions()
state: dict[bytes, tuple[int, int, int]] = {}
loads, dumps, produce = orjson.loads, orjson.dumps, producer.produce

while True:
    first = consumer.poll(0.05)
    if first is None:
        continue
    messages = [first, *consumer.consume(BATCH - 1, 0)]
    producer.begin_transaction()
    ends: dict[int, int] = {}
    dirty: dict[bytes, int] = {}
    for message in messages:
        key, event = message.key(), loads(message.value())
        start = event["event_time"] // WINDOW_MS * WINDOW_MS
        held = state.get(key)
        if held is not None and held[0] == start:
            now = (start, held[1] + 1, held[2] + event["amount"])
        else:
            now = (start, 1, event["amount"])
        state[key] = now
        partition = message.partition()
        ends[partition] = message.offset() + 1
        produce(output, dumps({"k": event["customer"], "w": start, "n": now[1], "s": now[2]}), key)
        dirty[key] = partition
    if durable:
        for key, partition in dirty.items():
            produce(changelog, dumps(state[key]), key, partition)
    producer.send_offsets_to_transaction(
        [TopicPartition(settings["BENCH_INPUT"], partition, end) for partition, end in ends.items()],
        consumer.consumer_group_metadata(),
    )
    producer.commit_transaction()
    producer.poll(0)
