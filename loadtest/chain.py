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
from pathlib import Path
from typing import Any

from streaming import Plan, Stream, say, streaming
from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.stack import Stack

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


def total_lag(stack: Stack) -> float:
    """Records not yet processed, over all services."""
    return sum(sample.total("tidemill_runtime_lag_records") or 0.0 for sample in stack.samples())


def measure(stream: Stream, step: Step) -> dict[str, Any]:
    """The measured seconds of a stream that is already flowing."""
    auditor, stack = stream.auditor, stream.stack
    before, used, lag, started = auditor.reset(), stream.cpu_seconds(), total_lag(stack), clock.monotonic()
    harness_used = stream.harness_cpu_seconds()
    stream.watch(step.seconds)
    after, used_after, lag_after = auditor.close_window(), stream.cpu_seconds(), total_lag(stack)
    harness_used = stream.harness_cpu_seconds() - harness_used
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


def drain(stream: Stream, payments: int) -> None:
    """Until every event has its prediction and nothing moves, or nothing has moved for long."""
    last, since, started = stream.auditor.progress(), clock.monotonic(), clock.monotonic()
    while clock.monotonic() - started < DRAIN_LIMIT_S:
        stream.watch(0.5)
        progress = stream.auditor.progress()
        if progress != last:
            last, since = progress, clock.monotonic()
            continue
        complete = progress["predictions"] >= payments
        if clock.monotonic() - since > (DRAIN_QUIET_S if complete else 6 * DRAIN_QUIET_S):
            return


def run_step(step: Step, folder: Path) -> dict[str, Any]:
    """One rate on a system of its own."""
    plan = Plan(step.pipeline, step.rate, step.warm_up + step.seconds, step.seed)
    with streaming(plan, folder) as stream:
        stream.watch(step.warm_up)
        measured = measure(stream, step)
        sent = stream.stop_sending()
        drain(stream, sent["payments"])
        report = stream.auditor.report()
    compared = {name: report[name] for name in ("events", "predictions", "missing", "repeated", "foreign", "unnamed")}
    measured["latency_ms"] = report["latency_ms"]
    return {"rate": step.rate, **measured, "sent": sent["payments"], "compared": compared}


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
