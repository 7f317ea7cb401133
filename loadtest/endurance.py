"""What a pipeline does under poison, under more than it can take, and over a long time, on one machine.

    python loadtest/endurance.py poison --rounds 3 --json      # 10 % bad records against none, both at full speed
    python loadtest/endurance.py overload --seconds 300        # three times what it sustains, then the time to recover
    python loadtest/endurance.py soak --seconds 1800           # half of what it sustains: memory and open files

Each starts its own local Kafka and all services but retraining, whose process trains when it likes, and ends by itself.
Exit code 1: an aim was missed.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.auditor import Auditor
from tidemill.local.machine import resident_bytes
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

PIPELINE = "fraud"
EVENTS_PER_DAY = 9_000
POISON_SHARE = 0.1
POISON_AIM = 0.8
OVERLOAD = 3.0
DRAIN_AIM = 2.0
"""Of the overload's length."""
WARM_UP_S = 20.0
FULL_SPEED = 20_000.0
SLOPE_AIM = 0.05
"""Of a process' resident memory, over the whole soak: more than that is growth."""
MEMORY_AIM_MB = 1_024
"""Of any service, whatever waits for it."""


class Stream:
    """A running stack with a producer and the audit."""

    def __init__(self, stack: Stack, folder: Path, rate: float, seconds: float, bad_share: float) -> None:
        self.stack = stack
        self._folder = folder
        self._producer = Supervisor(folder / "logs", NEVER)
        self.auditor = Auditor(stack.bootstrap_servers, PIPELINE, folder / "logs" / "audit.log", latency_sample=64)
        self._options: dict[str, str | int | float | bool] = {
            "bootstrap_servers": stack.bootstrap_servers,
            "pipeline": PIPELINE,
            "rate": rate,
            "bad_share": bad_share,
            "days": ceil(rate * (seconds + WARM_UP_S + 30) / EVENTS_PER_DAY) + 8,
            "summary_file": str(folder / "producer.json"),
        }

    def start(self) -> None:
        command = catalog.get(PIPELINE).producer_command(self._options)
        self._started_at = clock.monotonic()
        self._producer.start([ServiceCommand("producer", command)])
        until = clock.monotonic() + 120
        while self.predictions() == 0:
            self.watch(0.2)
            if clock.monotonic() > until:
                raise TidemillError("No prediction within 120 s of starting the producer.", hint="See their logs.")

    def stop_sending(self) -> dict[str, Any]:
        """The producer's summary, and the payments that it sent a second."""
        seconds = clock.monotonic() - self._started_at
        self._producer.stop()
        sent: dict[str, Any] = json.loads((self._folder / "producer.json").read_text("utf-8"))
        return sent | {"per_second": round(sent["payments"] / seconds, 1)}

    def predictions(self) -> int:
        return int(self.auditor.progress()["predictions"])

    def watch(self, seconds: float, each: Callable[[], None] = lambda: None, every_s: float = 1.0) -> None:
        """Let it flow; `each` is called every so often. Raises TidemillError if a service dies."""
        until, due = clock.monotonic() + seconds, clock.monotonic()
        while clock.monotonic() < until:
            for ended in self.stack.watch():
                raise TidemillError(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
            if clock.monotonic() >= due:
                due = clock.monotonic() + every_s
                each()
            clock.pause(0.1)

    def close(self) -> None:
        self._producer.stop()
        self.auditor.close()


class Resources:
    """Resident memory and open files of each service, sample by sample."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.seconds: list[float] = []
        self.resident: dict[str, list[float]] = {name: [] for name in stack.supervisor.names}
        self.files: dict[str, list[int]] = {name: [] for name in stack.supervisor.names}

    def sample(self) -> None:
        self.seconds.append(clock.monotonic())
        for name in self.resident:
            endpoint = self._stack.supervisor.endpoint(name)
            if endpoint is None:
                raise TidemillError(f"{name} is not running.")
            self.resident[name].append(resident_bytes(endpoint.pid) / 2**20)
            self.files[name].append(len(list(Path(f"/proc/{endpoint.pid}/fd").iterdir())))

    def summary(self) -> dict[str, Any]:
        """Of the last two thirds: what is loaded and filled at the beginning is no growth."""
        first = len(self.seconds) // 3
        span = self.seconds[-1] - self.seconds[first]
        return {name: self._of(name, first, span) for name in self.resident}

    def _of(self, name: str, first: int, span: float) -> dict[str, float | int]:
        resident, at = np.array(self.resident[name][first:]), np.array(self.seconds[first:]) - self.seconds[first]
        line = np.polyfit(at, resident, 1)
        return {
            "resident_mb": round(float(resident.mean()), 1),
            "most_mb": round(max(self.resident[name]), 1),
            "growth_mb": round(float(line[0]) * span, 2),
            "noise_mb": round(float((resident - np.polyval(line, at)).std()), 2),
            "files_first": self.files[name][first],
            "files_last": self.files[name][-1],
        }


@contextmanager
def streaming(rate: float, seconds: float, bad_share: float) -> Iterator[Stream]:
    """A stack of its own, with the stream flowing."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-endurance-"))
    try:
        settings = StackSettings(PIPELINE, folder, without=frozenset({"retrain"}))
        with Stack(settings, say) as stack:
            stack.wait_ready()
            stream = Stream(stack, folder, rate, seconds, bad_share)
            try:
                stream.start()
                yield stream
            finally:
                stream.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def throughput(seconds: float, bad_share: float) -> float:
    """Predictions a second where more is offered than can be taken."""
    with streaming(FULL_SPEED, seconds, bad_share) as stream:
        stream.watch(WARM_UP_S)
        before, started = stream.predictions(), clock.monotonic()
        stream.watch(seconds)
        return (stream.predictions() - before) / (clock.monotonic() - started)


def poison(seconds: float, rounds: int) -> dict[str, Any]:
    """Valid events a second with and without bad records among them, by turns."""
    runs = []
    for number in range(1, rounds + 1):
        clean, poisoned = throughput(seconds, 0.0), throughput(seconds, POISON_SHARE)
        runs.append({"clean": round(clean, 1), "poisoned": round(poisoned, 1), "ratio": round(poisoned / clean, 3)})
        say(f"round {number}: {clean:,.0f} a second clean, {poisoned:,.0f} with {POISON_SHARE:.0%} poison")
    ratio = median(run["ratio"] for run in runs)
    return {"runs": runs, "ratio": ratio, "aim": POISON_AIM, "met": ratio >= POISON_AIM}


def overload(seconds: float, sustained: float | None) -> dict[str, Any]:
    """Three times what it sustains, from one moment on; then nothing, until all of it is predicted."""
    rate = sustained or throughput(WARM_UP_S, 0.0)
    say(f"sustains {rate:,.0f} a second")
    with streaming(OVERLOAD * rate, seconds, 0.005) as stream:
        resources = Resources(stream.stack)
        stream.watch(seconds, resources.sample)
        sent = stream.stop_sending()
        stopped = clock.monotonic()
        behind = sent["payments"] - stream.predictions()
        say(f"sent {sent['payments']:,}; {behind:,} behind")
        while stream.predictions() < sent["payments"] and clock.monotonic() - stopped < 2 * DRAIN_AIM * seconds:
            stream.watch(2.0, resources.sample)
        drained = clock.monotonic() - stopped
        report = stream.auditor.report()
    most = max(max(values) for values in resources.resident.values())
    right = report["missing"] == report["repeated"] == 0
    return {
        "sustained_per_second": round(rate, 1),
        "offered_per_second": round(OVERLOAD * rate, 1),
        "sent_per_second": sent["per_second"],
        "sent": sent["payments"],
        "behind_at_the_end": behind,
        "drained_in_s": round(drained, 1),
        "drained_over_overload": round(drained / seconds, 2),
        "most_resident_mb": round(most, 1),
        "services": resources.summary(),
        "compared": {name: report[name] for name in ("events", "predictions", "missing", "repeated")},
        "met": right and drained <= DRAIN_AIM * seconds and most <= MEMORY_AIM_MB,
    }


def soak(seconds: float, sustained: float | None) -> dict[str, Any]:
    """Half of what it sustains."""
    rate = (sustained or throughput(WARM_UP_S, 0.0)) / 2
    say(f"{rate:,.0f} a second")
    with streaming(rate, seconds, 0.005) as stream:
        resources = Resources(stream.stack)
        stream.watch(WARM_UP_S)
        stream.watch(seconds, resources.sample, every_s=5.0)
    services = resources.summary()
    growing = [
        name
        for name, one in services.items()
        if one["growth_mb"] > max(SLOPE_AIM * one["resident_mb"], 2 * one["noise_mb"])
        or one["files_last"] > one["files_first"] + 2
    ]
    return {"rate": round(rate, 1), "seconds": seconds, "services": services, "growing": growing, "met": not growing}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="endurance.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("poison", "overload", "soak"))
    parser.add_argument("--seconds", type=float, help="length of the measured part; default 25, 300, 1800")
    parser.add_argument("--rounds", type=int, default=3, help="of poison against none")
    parser.add_argument("--sustained", type=float, help="events a second that it sustains; default: measured first")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        if given.what == "poison":
            result = poison(given.seconds or 25.0, given.rounds)
        elif given.what == "overload":
            result = overload(given.seconds or 300.0, given.sustained)
        else:
            result = soak(given.seconds or 1_800.0, given.sustained)
    except TidemillError as error:
        say(f"{error.message} {error.hint}")
        return error.exit_code
    print(
        json.dumps(result, indent=1) if given.json else "\n".join(f"{name}: {value}" for name, value in result.items())
    )
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
