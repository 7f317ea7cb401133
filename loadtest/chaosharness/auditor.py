"""`python -m chaosharness.auditor --bootstrap-servers … --pipeline fraud`: the audit's own process, on aiokafka.

Another client than the services use, reading committed records only, from the beginning, while they are written.
Answers commands on standard input, one JSON line each: `progress`, or `close {…}`, which reads on until `wanted`
predictions are there or nothing has come for `quiet_s`, and then asks every question of `checks`. End of input ends it.
"""

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from chaosharness import checks
from chaosharness.books import Books
from chaosharness.recomputation import recompute
from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.pipelinefile import load_pipeline

_POLL_MS = 200
_POLL_RECORDS = 4_000


class Auditor:
    """One consumer of all topics, and the books it fills."""

    def __init__(self, bootstrap_servers: str, pipeline: Pipeline) -> None:
        self._servers = bootstrap_servers
        self._pipeline = pipeline
        self.books = Books(pipeline)
        self._news_at = clock.monotonic()

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Until `commands` ends."""
        consumer = await self._consumer(self.books.topics)
        try:
            asked = asyncio.ensure_future(commands.readline())
            while True:
                await self._poll(consumer)
                if asked.done():
                    line = asked.result()
                    if not line:
                        asked.cancel()
                        return
                    answer = await self._answer(orjson.loads(line), consumer)
                    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
                    sys.stdout.buffer.flush()
                    asked = asyncio.ensure_future(commands.readline())
        finally:
            await consumer.stop()

    async def _answer(self, command: Mapping[str, Any], consumer: AIOKafkaConsumer) -> dict[str, Any]:
        if command["do"] == "progress":
            return self.books.progress()
        complete = await self._read_on(consumer, command["wanted"], command["quiet_s"])
        findings = await self._ask(command)
        return {**self.books.progress(), "complete": complete, "findings": findings}

    async def _read_on(self, consumer: AIOKafkaConsumer, wanted: int, quiet_s: float) -> bool:
        """Whether all predictions came. A while longer after the last record: something may yet come too often."""
        while True:
            await self._poll(consumer)
            complete = len(self.books.scores) >= wanted
            if clock.monotonic() - self._news_at > (quiet_s / 4 if complete else quiet_s):
                return complete

    async def _ask(self, command: Mapping[str, Any]) -> dict[str, list[str]]:
        books, pipeline = self.books, self._pipeline
        findings = {
            "outputs": checks.every_input_has_its_output(books),
            "order": checks.order_per_key_is_kept(books),
            "dead_letters": checks.dead_letters_are_the_originals(books),
            "counters": checks.counters_are_exact(books, command["sent"]),
            "models": checks.each_model_scored_its_part(books, command["due_epoch"], score_of),
            "outcomes": checks.outcomes_are_complete(books, pipeline.outcomes.maturity),
            "twice": checks.nothing_was_seen_twice(books),
            "vectors": checks.vectors_equal(books, recompute(books)),
        }
        for index, stage in enumerate(pipeline.features.stages):
            rows, names = await self._state(stage.entity, index)
            look_back = max(feature.look_back for feature in stage.features)
            findings[f"{stage.entity}_state"] = checks.state_equals_inputs(books, stage.entity, rows, names, look_back)
        return findings

    async def _state(self, stage: str, index: int) -> tuple[dict[str, list[tuple[int, str]]], dict[str, str]]:
        """The rows of each key, from the latest committed value of each changelog key; and the hash of every id."""
        from tidemill.features.core.columns import hash_texts
        from tidemill.features.core.holdings import WindowHoldings

        topic = self._pipeline.topic(f"{stage}-state")
        latest: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        consumer = await self._consumer([topic])
        try:
            while records := await self._some(consumer):
                for partition, key, value in records:
                    if value is None:
                        latest[partition].pop(key, None)
                    else:
                        latest[partition][key] = value
        finally:
            await consumer.stop()
        rows: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for entries in latest.values():
            for row in WindowHoldings(self._pipeline, index).rows(entries):
                if row["kind"] == "event":
                    rows[str(row["key"])].append((int(row["event_time"] or 0), str(row["id_hash"])))
        ids = list(self.books.events)
        hashes = [f"{value & 0xFFFFFFFFFFFFFFFF:016x}" for value in hash_texts(ids).tolist()]
        return rows, dict(zip(ids, hashes, strict=True))

    async def _some(self, consumer: AIOKafkaConsumer) -> list[tuple[int, bytes, bytes | None]]:
        """Records, or none at the end of every partition as it is now."""
        while True:
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            if polled:
                return [(at.partition, one.key, one.value) for at, records in polled.items() for one in records]
            partitions = list(consumer.assignment())
            ends = await consumer.end_offsets(partitions)
            places = [await consumer.position(at) >= ends[at] for at in partitions]
            if all(places):
                return []

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        try:
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        except KafkaError:
            return  # a broker that was killed: aiokafka finds it again
        for at, records in polled.items():
            self._news_at = clock.monotonic()
            for one in records:
                self.books.enter(
                    at.topic, at.partition, one.offset, one.timestamp, one.key or b"", one.value or b"", one.headers
                )

    async def _consumer(self, topics: list[str]) -> AIOKafkaConsumer:
        """Of every partition of the topics, from the beginning, outside any group."""
        consumer = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self._servers,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=1 << 20,
            retry_backoff_ms=200,
        )
        await consumer.start()
        return consumer


def score_of(version: int) -> float:
    """What model `version` of this harness says of everything; see `modelfeed`."""
    return (version % 997 + 1) / 1000


async def _main(servers: str, pipeline: str) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await Auditor(servers, load_pipeline(pipeline)).run(reader)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--pipeline", required=True)
    given = parser.parse_args()
    asyncio.run(_main(given.bootstrap_servers, given.pipeline))
