"""`python -m chaosharness.auditor --bootstrap-servers … --pipeline fraud`: the audit's own process, on aiokafka.

Another client than the services use, reading committed records only, from the beginning, while they are written.
Answers commands on standard input, one JSON line each: `progress`, or `close {…}`, which reads on until `wanted`
predictions are there or nothing has come for `quiet_s`, and then asks every question. End of input ends it.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from chaosharness import changelogs, checks, contents, modelchecks, ordering, outcomechecks, statechecks
from chaosharness.books import Books
from chaosharness.patience import Ending, Patience
from chaosharness.promotions import Promotions
from chaosharness.recomputation import recompute
from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.pipelinefile import load_pipeline

_POLL_MS = 200
_POLL_RECORDS = 4_000
_ENDS_WITHIN_S = 5.0
_STATE_WITHIN_S = 600.0
"""For one changelog: it has stood still since the stream ended, or something is wrong."""
_OVERDUE = "long after the stream had ended: reading was given up"
_UNREAD = "the changelog of {} could not be read to its end"


class Auditor:
    """One consumer of all topics, and the books it fills."""

    def __init__(self, bootstrap_servers: str, pipeline: Pipeline) -> None:
        self._servers = bootstrap_servers
        self._pipeline = pipeline
        self.books = Books(pipeline)
        self._promotions = Promotions()
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
        ending = await self._read_on(consumer, command["wanted"], command["quiet_s"])
        findings = {"end": [f"records still came {_OVERDUE}"] if ending == "overdue" else []}
        findings |= await self._ask(command)
        return {**self.books.progress(), "complete": self._complete(command["wanted"]), "findings": findings}

    async def _read_on(self, consumer: AIOKafkaConsumer, wanted: int, quiet_s: float) -> Ending:
        """Until the stream has ended, or should have."""
        patience = Patience(quiet_s, clock.monotonic())
        while True:
            await self._poll(consumer)
            ending = patience.ending(clock.monotonic(), self._news_at, self._complete(wanted))
            if ending is not None:
                return ending

    def _complete(self, wanted: int) -> bool:
        return len(self.books.scores) >= wanted

    async def _ask(self, command: Mapping[str, Any]) -> dict[str, list[str]]:
        books, pipeline = self.books, self._pipeline
        findings = {
            "outputs": checks.every_input_has_its_output(books),
            "order": ordering.order_is_kept(books),
            "contents": contents.records_are_carried_on(books),
            "records": contents.records_are_what_they_say(books),
            "dead_letters": checks.dead_letters_are_the_originals(books),
            "counters": checks.counters_are_exact(books, command["sent"], labels_overtake=command["labels_overtake"]),
            "models": modelchecks.each_model_scored_its_part(books),
            "promotions": modelchecks.promotions_took_effect(books, command["due_epoch"], self._promotions),
            "outcomes": outcomechecks.outcomes_are_complete(books),
            "truths": outcomechecks.truths_are_the_labels(books),
            "twice": checks.nothing_was_seen_twice(books),
            "vectors": contents.vectors_equal(books, recompute(books)),
        }
        hashes = changelogs.hashes_of(list(books.events))
        for index, stage in enumerate(pipeline.features.stages):
            latest = await self._latest(f"{stage.entity}-state")
            look_back = max(feature.look_back for feature in stage.features)
            findings[f"{stage.entity}_state"] = (
                [_UNREAD.format(stage.entity)]
                if latest is None
                else statechecks.state_equals_inputs(
                    books, index, changelogs.holdings(pipeline, index, latest), hashes, look_back
                )
            )
        latest = await self._latest("outcomes-state")
        findings["outcomes_state"] = (
            [_UNREAD.format("outcomes")]
            if latest is None
            else statechecks.waiting_labels_are_held(books, *changelogs.waiting(pipeline, latest))
        )
        return findings

    async def _latest(self, role: str) -> changelogs.Latest | None:
        """The latest committed value of each key of each partition; None if the topic cannot be read to its end."""
        latest: changelogs.Latest = {}
        consumer = await self._consumer([self._pipeline.topic(role)])
        try:
            async with asyncio.timeout(_STATE_WITHIN_S):
                while records := await self._some(consumer):
                    for partition, key, value in records:
                        entries = latest.setdefault(partition, {})
                        if value is None:
                            entries.pop(key, None)
                        else:
                            entries[key] = value
        except TimeoutError:
            return None
        finally:
            await consumer.stop()
        return latest

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
                self.books.enter(at.topic, at.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
        await self._watch_promotions(consumer)

    async def _watch_promotions(self, consumer: AIOKafkaConsumer) -> None:
        now = clock.monotonic()
        predicted = {number: len(lines) for number, lines in self.books.streams["predictions"].items()}
        self._promotions.read(now, max(self.books.activations, default=0), predicted)
        if not self._promotions.wants_ends(now):
            return
        topic = self.books.names["features"]
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                ends = await consumer.end_offsets([at for at in consumer.assignment() if at.topic == topic])
        except (KafkaError, TimeoutError):
            return  # the broker is away: asked again at the next poll
        self._promotions.ends(now, {at.partition: end for at, end in ends.items()})

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
