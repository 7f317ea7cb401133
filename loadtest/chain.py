"""How much the whole chain carries, what each service costs, and how long an event takes to become a prediction.

Starts a local Kafka and all services, offers events at a fixed rate in an open loop (a slow system does not slow the
sender down), and reads raw events and committed predictions with a reader of its own. Latency counts from the moment
that an event was meant to be sent. CPU is counted per process over the measured seconds and divided by the events that
came out in them. Every output is counted and compared with what was sent.

    python loadtest/chain.py --rate 500 --seconds 60 --json
    python loadtest/chain.py --rate 6000 --rate 8000 --rate 10000 --seconds 40
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.auditor import Auditor
from tidemill.local.machine import process_usage
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

EVENTS_PER_DAY = 9_000
"""Fewer than a simulated day of 5,000 customers brings, so that the stream never ends before the measurement."""
SUSTAINED_SHARE = 0.98
DRAIN_QUIET_S = 5.0
DRAIN_LIMIT_S = 180.0


@dataclass(frozen=True)
class Step:
    """One offered rate: `warm_up` seconds, then `seconds` that are measured."""

    pipeline: str
    rate: float
    seconds: float
    warm_up: float
    seed: int


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Harness:
    """The processes that are not part of the system: they take their share of the same cores."""

    producer: Supervisor
    auditor: Auditor

    def cpu_seconds(self) -> float:
        """So far. Raises TidemillError if one of them has ended."""
        producer, auditor = self.producer.usage("producer"), process_usage(self.auditor.pid)
        if producer is None or auditor is None:
            raise TidemillError("The producer or the audit ended within the measurement.", hint="See the logs.")
        return producer.cpu_seconds + auditor.cpu_seconds


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds so far of each service and of the broker, if it is ours."""
    used = {name: usage.cpu_seconds for name in stack.supervisor.names if (usage := stack.supervisor.usage(name))}
    if stack.broker_pid is not None and (broker := process_usage(stack.broker_pid)):
        used["kafka"] = broker.cpu_seconds
    return used


def total_lag(stack: Stack) -> float:
    """Records not yet processed, over all services."""
    return sum(sample.total("tidemill_runtime_lag_records") or 0.0 for sample in stack.samples())


def measure(stack: Stack, harness: Harness, step: Step) -> dict[str, Any]:
    """The measured seconds of a stream that is already flowing."""
    before, used, lag, started = harness.auditor.reset(), cpu_seconds(stack), total_lag(stack), clock.monotonic()
    harness_used = harness.cpu_seconds()
    watch_for(stack, step.seconds)
    after, used_after, lag_after = harness.auditor.close_window(), cpu_seconds(stack), total_lag(stack)
    harness_used = harness.cpu_seconds() - harness_used
    seconds = clock.monotonic() - started
    events = after["predictions"] - before["predictions"]
    per_event = {name: 1e6 * (used_after[name] - used[name]) / max(events, 1) for name in used if name in used_after}
    return {
        "events": events,
        "events_per_second": round(events / seconds, 1),
        "sustained": events / seconds >= SUSTAINED_SHARE * step.rate,
        "lag_records": {"before": lag, "after": lag_after},
        "cpu_us_per_event": {name: round(value, 1) for name, value in per_event.items()},
        "cpu_us_per_event_total": round(sum(per_event.values()), 1),
        "harness_cpu_us_per_event": round(1e6 * harness_used / max(events, 1), 1),
        "measured_seconds": round(seconds, 1),
    }


def watch_for(stack: Stack, seconds: float) -> None:
    """Let the stream flow; raises TidemillError if a service dies."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        for ended in stack.watch():
            raise TidemillError(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
        clock.pause(0.1)


def drain(stack: Stack, auditor: Auditor, payments: int) -> None:
    """Until every event has its prediction and nothing moves, or nothing has moved for long."""
    last, since, started = auditor.progress(), clock.monotonic(), clock.monotonic()
    while clock.monotonic() - started < DRAIN_LIMIT_S:
        watch_for(stack, 0.5)
        progress = auditor.progress()
        if progress != last:
            last, since = progress, clock.monotonic()
            continue
        complete = progress["predictions"] >= payments
        if clock.monotonic() - since > (DRAIN_QUIET_S if complete else 6 * DRAIN_QUIET_S):
            return


def run_step(step: Step, folder: Path) -> dict[str, Any]:
    """One rate on a system of its own."""
    options: dict[str, str | int | float | bool] = {
        "pipeline": step.pipeline,
        "rate": step.rate,
        "seed": step.seed,
        "bad_share": 0.0,
        "days": ceil(step.rate * (step.warm_up + step.seconds + 30) / EVENTS_PER_DAY) + 8,
        "summary_file": str(folder / "producer.json"),
    }
    with Stack(StackSettings(step.pipeline, folder), say) as stack:
        stack.wait_ready()
        scenario = catalog.get(stack.pipeline.scenario or "")
        producer = Supervisor(folder / "logs", NEVER)
        options["bootstrap_servers"] = stack.bootstrap_servers
        sample = max(1, int(step.rate // 500))
        auditor = Auditor(stack.bootstrap_servers, step.pipeline, folder / "logs" / "audit.log", latency_sample=sample)
        try:
            producer.start([ServiceCommand("producer", scenario.producer_command(options))])
            wait_for_flow(stack, auditor)
            watch_for(stack, step.warm_up)
            measured = measure(stack, Harness(producer, auditor), step)
            producer.stop()
            sent = json.loads((folder / "producer.json").read_text("utf-8"))
            drain(stack, auditor, sent["payments"])
            report = auditor.report()
        finally:
            producer.stop()
            auditor.close()
    compared = {name: report[name] for name in ("events", "predictions", "missing", "repeated", "foreign", "unnamed")}
    measured["latency_ms"] = report["latency_ms"]
    return {"rate": step.rate, **measured, "sent": sent["payments"], "compared": compared}


def wait_for_flow(stack: Stack, auditor: Auditor) -> None:
    """Until the first prediction: the simulation has been made and the first events are through."""
    until = clock.monotonic() + 120
    while auditor.progress()["predictions"] == 0:
        watch_for(stack, 0.2)
        if clock.monotonic() > until:
            raise TidemillError("No prediction within 120 s of starting the producer.", hint="See the services' logs.")


def show(result: Mapping[str, Any]) -> None:
    latency, compared = result["latency_ms"], result["compared"]
    print(
        f"{result['rate']:>8,.0f} ev/s offered  {result['events_per_second']:>9,.0f} through"
        f"{'  sustained' if result['sustained'] else '  NOT sustained'}   "
        f"p50 {latency['p50']} ms  p99 {latency['p99']} ms   {result['cpu_us_per_event_total']} µs CPU an event"
    )
    for name, cost in sorted(result["cpu_us_per_event"].items(), key=lambda item: -item[1]):
        print(f"{name:>24} {cost:8.1f} µs an event")
    print(f"{'(producer and audit)':>24} {result['harness_cpu_us_per_event']:8.1f} µs an event")
    print(f"{'compared':>24} {compared}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="fraud")
    parser.add_argument("--rate", type=float, action="append", help="events per second; may be given several times")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds at each rate")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds before the measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    for rate in arguments.rate or [500.0]:
        folder = Path(tempfile.mkdtemp(prefix="tidemill-chain-"))
        step = Step(arguments.pipeline, rate, arguments.seconds, arguments.warm_up, arguments.seed)
        try:
            results.append(run_step(step, folder))
        except TidemillError as error:
            say(f"error: {error.message}\nhint: {error.hint}\nlogs: {folder}")
            return error.exit_code
        shutil.rmtree(folder, ignore_errors=True)
        if not arguments.json:
            show(results[-1])
    sustained = [result["rate"] for result in results if result["sustained"]]
    if arguments.json:
        print(json.dumps({"steps": results, "highest_sustained_rate": max(sustained, default=None)}))
    wrong = any(result["compared"]["missing"] or result["compared"]["repeated"] for result in results)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
