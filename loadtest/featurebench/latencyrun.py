"""What one stage adds to an event's way at a modest load: the real service, exactly-once, an open loop.

Events are sent at a fixed rate whatever comes back. One reader of committed records follows the stage's input and its
output, so each event gives two moments: when a reader could see it before the stage, and when after it. `added` is the
difference; `sent_to_output` also holds the sender's own acknowledgement and is the larger one.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import orjson

from featurebench.measuring import START_WITHIN_S, Bench, say
from featurebench.ratios import percentiles
from featurebench.stream import Events, draw
from featurebench.usage import cpu_seconds
from featurebench.windowing import (
    service_environment,
    stage_command,
    stage_topics,
    write_pipeline,
)
from tidemill import clock
from tidemill.errors import EnvironmentUnusable
from tidemill.local.scrape import look
from tidemill.local.supervisor import NEVER, Supervisor
from tidemill.runtime.kafka import Admin, PlainProducer, TopicReader
from tidemill.runtime.service import OutRecord

RATE = 500.0
_TICK_S = 0.002
_DRAIN_S = 10.0
_SETTLE_S = 5.0
"""Left out at the beginning: the first transactions, and the pages that come with them."""


@dataclass
class _Sender:
    """Sends event i at `began` + i / RATE, from a thread of its own. `sent[i]` is when it was handed to the client."""

    producer: PlainProducer
    topic: str
    events: Events
    sent: list[float] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        began = clock.monotonic()
        while len(self.sent) < len(self.events) and not self.stop.is_set():
            due = min(len(self.events), int((clock.monotonic() - began) * RATE) + 1)
            first = len(self.sent)
            for key, value, at in self.events.records(first, due):
                self.sent.append(clock.monotonic())
                self.producer.send(OutRecord(self.topic, key, value, at))
            self.producer.poll(0.0)
            clock.pause(_TICK_S)
        self.producer.flush()


def run(bench: Bench, seconds: float, keys: int, seed: int, compression: str) -> dict[str, Any]:
    """Blocks for `seconds` and the start of a service. Raises TidemillError if the service ends or answers nothing."""
    events = draw(int(RATE * (_SETTLE_S + seconds)), keys, seed)
    file, pipeline = write_pipeline("latency", bench.folder / "pipelines", "latency")
    Admin(bench.bootstrap_servers).create_topics(stage_topics(pipeline, ["customer"]))
    environment = service_environment(bench.bootstrap_servers, compression)
    supervisor = Supervisor(bench.folder / "logs" / "latency", NEVER)
    inputs, outputs = pipeline.topic("events"), pipeline.topic("features")
    reader = TopicReader(bench.bootstrap_servers, [inputs, outputs])
    producer = PlainProducer(bench.bootstrap_servers, {"linger.ms": "0", "compression.type": compression})
    sender = _Sender(producer, inputs, events)
    thread = threading.Thread(target=sender.run, name="sender")
    try:
        command = stage_command(str(file), "customer", environment, bench.folder / "data" / "latency")
        supervisor.start([command])
        await_ready(supervisor, command.name, START_WITHIN_S)
        pid = supervisor.pid(command.name) or 0
        cpu = cpu_seconds(pid)
        thread.start()
        seen = _follow(reader, supervisor, outputs, len(events), seconds + _SETTLE_S + _DRAIN_S)
        cpu = cpu_seconds(pid) - cpu
    finally:
        sender.stop.set()
        if thread.is_alive():
            thread.join()
        supervisor.stop(grace_s=15.0)
        reader.close()
        producer.close()
    return _figures(seen, sender.sent, cpu)


@dataclass
class _Seen:
    """When each event was first seen, by its number."""

    before: dict[int, float] = field(default_factory=dict)
    after: dict[int, float] = field(default_factory=dict)


def _follow(reader: TopicReader, supervisor: Supervisor, outputs: str, count: int, limit_s: float) -> _Seen:
    seen, give_up = _Seen(), clock.monotonic() + limit_s
    while len(seen.after) < count and clock.monotonic() < give_up:
        records = reader.poll(1_000, 0.05)
        now = clock.monotonic()
        for record in records:
            place = seen.after if record.topic == outputs else seen.before
            place.setdefault(int(orjson.loads(record.value or b"")["id"]), now)
        for ended in supervisor.poll():
            raise EnvironmentUnusable(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
    return seen


def await_ready(supervisor: Supervisor, name: str, within_s: float) -> None:
    """Until the service says so itself. Raises EnvironmentUnusable if it ends or takes too long."""
    give_up = clock.monotonic() + within_s
    while True:
        endpoint = supervisor.endpoint(name)
        if endpoint is not None and look(endpoint).state == "ready":
            return
        for ended in supervisor.poll():
            raise EnvironmentUnusable(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
        if clock.monotonic() > give_up:
            raise EnvironmentUnusable(f"{name} was not ready within {within_s:.0f} s.", hint="See its log.")
        clock.pause(0.1)


def _figures(seen: _Seen, sent: list[float], cpu: float) -> dict[str, Any]:
    measured = [number for number in seen.after if number >= RATE * _SETTLE_S and number in seen.before]
    if not measured:
        raise EnvironmentUnusable("No event came out of the stage.", hint="Give it longer with --seconds.")
    added = percentiles(1e3 * (seen.after[number] - seen.before[number]) for number in measured)
    whole = percentiles(1e3 * (seen.after[number] - sent[number]) for number in measured)
    figures = {
        "added_ms_p50": round(added[0], 1),
        "added_ms_p99": round(added[1], 1),
        "sent_to_output_ms_p50": round(whole[0], 1),
        "sent_to_output_ms_p99": round(whole[1], 1),
        "events_per_second": RATE,
        "cpu_us_per_event": round(1e6 * cpu / len(seen.after), 1),
    }
    missing = len(sent) - len(seen.after)
    say(f"latency at {RATE:.0f} a second: added p50 {added[0]:.1f} ms, p99 {added[1]:.1f} ms; {missing} missing")
    return {
        "figures": figures,
        "measured": len(measured),
        "missing": missing,
        "all_right": missing == 0,
        "window": "tumbling, 10 s",
    }
