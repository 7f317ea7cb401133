"""What a pipeline does under poison, under more than it can take, and over a long time, on one machine.

    python loadtest/endurance.py poison --rounds 3 --json      # 10 % bad records against none, both at full speed
    python loadtest/endurance.py overload --seconds 300        # three times what it sustains, then the time to recover
    python loadtest/endurance.py soak --seconds 1800           # half of what it sustains: memory and open files

Each starts its own local Kafka and all services but retraining, whose process trains when it likes, and ends by itself.
Exit code 1: an aim was missed; `misses` says which.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enduring.lag import by_offsets, first_behind, readings
from enduring.resources import Resources
from enduring.verdicts import (
    DRAIN_AIM,
    OVERLOAD,
    POISON_AIM,
    POISON_SHARE,
    Flow,
    Overload,
    bad_per_valid,
    books,
    overload_misses,
    poison_misses,
    poison_ratios,
    soak_misses,
)
from featurebench.machinefacts import facts, load_average
from streaming import Plan, Stream, say, streaming
from tidemill import clock
from tidemill.errors import TidemillError

PIPELINE = "fraud"
WITHOUT = frozenset({"retrain"})
BEHIND_PREDICTIONS = frozenset({"features-outcomes", "drift"})
WARM_UP_S = 20.0
FULL_SPEED = 20_000.0
SOME_BAD = 0.005
"""Bad records per valid one in overload and soak, so that the DLQ is part of what is looked at."""
LEAST_SECONDS = {"poison": 1.0, "overload": 1.0, "soak": 20.0}
SECONDS = {"poison": 25.0, "overload": 300.0, "soak": 1_800.0}
_SAMPLES = 360
_LOOK_AT_LAG_S = 30.0
_SOAK_DRAIN_S = 120.0


@contextmanager
def flowing(plan: Plan) -> Iterator[Stream]:
    """The stream in a folder of its own, which is kept only where a service or the audit failed."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-endurance-"))
    keep = False
    try:
        with streaming(plan, folder) as stream:
            yield stream
    except TidemillError:
        keep = True
        say(f"what was written is kept: {folder}")
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def waiting(stream: Stream) -> dict[str, int]:
    """Records in front of each service, by offsets."""
    pipeline, servers = stream.stack.pipeline, stream.stack.bootstrap_servers
    return {reading.service: by_offsets(servers, reading) for reading in readings(pipeline)}


def waiting_for_prediction(stream: Stream) -> int:
    """Of the stages up to the prediction, what the one that has most in front of it has."""
    return max(records for service, records in waiting(stream).items() if service not in BEHIND_PREDICTIONS)


def throughput(seconds: float, bad_share: float, seed: int) -> tuple[Flow, dict[str, Any]]:
    """Predictions a second where more is offered than can be taken, and what was sent."""
    plan = Plan(PIPELINE, FULL_SPEED, WARM_UP_S + seconds, seed, bad_share, WITHOUT)
    with flowing(plan) as stream:
        stream.watch(WARM_UP_S)
        before = waiting_for_prediction(stream)
        events, used, started = stream.predictions(), services_cpu(stream), clock.monotonic()
        stream.watch(seconds)
        events, used = stream.predictions() - events, services_cpu(stream) - used
        seconds = clock.monotonic() - started
        flow = Flow(events, seconds, used, (before, waiting_for_prediction(stream)))
        sent = stream.stop_sending()
    return flow, sent


def services_cpu(stream: Stream) -> float:
    return sum(seconds for name, seconds in stream.cpu_seconds().items() if name != "kafka")


def sustained_rate(given: float | None, seconds: float, seed: int) -> tuple[float, dict[str, Any]]:
    """Valid events a second that come out while more of them wait and the sender and the audit take their share of the
    machine; and how that was found."""
    if given is not None:
        return given, {"given": given}
    flow, _ = throughput(min(seconds, WARM_UP_S), 0.0, seed)
    say(
        f"sustains {flow.per_second:,.0f} a second{'' if flow.saturated else ', if more had been offered perhaps more'}"
    )
    return flow.per_second, flow.as_dict()


def poison(seconds: float, rounds: int, seed: int) -> dict[str, Any]:
    """Valid events a second with and without bad records among them, by turns; who is first alternates."""
    pairs: list[tuple[Flow, Flow]] = []
    runs = []
    for number in range(1, rounds + 1):
        found: dict[float, tuple[Flow, dict[str, Any]]] = {}
        shares = (0.0, bad_per_valid(POISON_SHARE))
        for share in shares if number % 2 else reversed(shares):
            found[share] = throughput(seconds, share, seed)
        (clean, clean_sent), (poisoned, poisoned_sent) = (found[share] for share in shares)
        pairs.append((clean, poisoned))
        runs.append(
            {
                "clean": clean.as_dict() | offered(clean_sent),
                "poisoned": poisoned.as_dict() | offered(poisoned_sent),
                "first": "clean" if number % 2 else "poisoned",
            }
        )
        say(f"round {number}: {clean.per_second:,.0f} a second clean, {poisoned.per_second:,.0f} with poison")
    misses = poison_misses(pairs)
    ratios = {} if any(flow.events == 0 for pair in pairs for flow in pair) else poison_ratios(pairs)
    return {
        "runs": runs,
        **{name: round(value, 3) for name, value in ratios.items()},
        "aim": POISON_AIM,
        "misses": misses,
    }


def offered(sent: dict[str, Any]) -> dict[str, Any]:
    """What the sender says: valid events a second, and the bad ones' share of all."""
    bad = sum(sent["bad"].values())
    return {
        "sent_per_second": round(sent["payments"] / sent["wall_seconds"], 1),
        "bad_share": round(bad / (bad + sent["payments"]), 4),
    }


def overload(seconds: float, sustained: float | None, seed: int) -> dict[str, Any]:
    """Three times what it sustains, from one moment on; then nothing, until no stage has anything left."""
    rate, how = sustained_rate(sustained, seconds, seed)
    plan = Plan(PIPELINE, OVERLOAD * rate, seconds, seed, SOME_BAD, WITHOUT, sender_first=True)
    with flowing(plan) as stream:
        resources = Resources(stream.stack)
        stream.watch(seconds, resources.sample, sample_every_s(seconds))
        sent, stopped = stream.stop_sending(), clock.monotonic()
        behind = sent["payments"] - stream.predictions()
        say(f"sent {sent['payments']:,}; {behind:,} behind; {waiting(stream)}")
        drained = drain(stream, resources, stopped, 2 * DRAIN_AIM * sent["wall_seconds"])
        report = stream.auditor.report()
    run = Overload(rate, sent["wall_seconds"], sent["payments"], behind, drained)
    balance = books(report, sent)
    return {
        "sustained_per_second": round(rate, 1),
        "sustained": how,
        "overload_s": round(run.seconds, 1),
        **offered(sent),
        "offered_times": round(run.offered, 2),
        "behind_at_the_end": behind,
        "drained_in_s": None if drained is None else round(drained, 1),
        "drained_over_overload": None if drained is None else round(drained / run.seconds, 2),
        "most_resident_mb": resources.most_mb,
        "broker": resources.broker(),
        "compared": balance,
        "misses": overload_misses(run, resources.most_mb, balance),
    }


def drain(stream: Stream, resources: Resources, since: float, limit_s: float) -> float | None:
    """Seconds from `since` until no stage had anything left; None where that takes longer than `limit_s`."""
    through_at = None
    while True:
        left = first_behind(stream.stack.bootstrap_servers, stream.stack.pipeline)
        if left is None and through_at is not None:
            return through_at - since
        through_at = None if left else clock.monotonic()
        if left and clock.monotonic() - since > limit_s:
            say(f"left: {left[1]:,} records in front of {left[0]}")
            return None
        stream.watch(1.0, resources.sample)


def sample_every_s(seconds: float) -> float:
    return max(0.5, seconds / _SAMPLES)


def soak(seconds: float, sustained: float | None, seed: int) -> dict[str, Any]:
    """Half of what it sustains, and whether it keeps up, without losing or repeating anything, in level memory."""
    full, how = sustained_rate(sustained, seconds, seed)
    rate = full / 2
    say(f"{rate:,.0f} a second")
    most_behind: dict[str, int] = {}
    with flowing(Plan(PIPELINE, rate, WARM_UP_S + seconds, seed, SOME_BAD, WITHOUT)) as stream:
        stream.watch(WARM_UP_S)
        resources, ends = Resources(stream.stack), clock.monotonic() + seconds
        while (rest := ends - clock.monotonic()) > 0:
            stream.watch(min(rest, _LOOK_AT_LAG_S), resources.sample, sample_every_s(seconds))
            for service, records in waiting(stream).items():
                most_behind[service] = max(records, most_behind.get(service, 0))
        services = {name: series.verdict() for name, series in resources.services.items()}
        broker = resources.broker()
        sent, stopped = stream.stop_sending(), clock.monotonic()
        drained = drain(stream, resources, stopped, _SOAK_DRAIN_S)
        report = stream.auditor.report()
    behind_s = {name: round(records / rate, 2) for name, records in most_behind.items()}
    balance = books(report, sent)
    return {
        "sustained_per_second": round(full, 1),
        "sustained": how,
        "rate": round(rate, 1),
        **offered(sent),
        "most_behind_s": behind_s,
        "drained_in_s": None if drained is None else round(drained, 1),
        "services": services,
        "broker": broker,
        "compared": balance,
        "misses": soak_misses(services, behind_s, drained is not None, balance),
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="endurance.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(SECONDS))
    parser.add_argument("--seconds", type=float, help="length of the measured part; default 25, 300, 1800")
    parser.add_argument("--rounds", type=int, default=3, help="of poison against none")
    parser.add_argument("--sustained", type=float, help="events a second that it sustains; default: measured first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    seconds = given.seconds or SECONDS[given.what]
    if seconds < LEAST_SECONDS[given.what] or given.rounds < 1:
        parser.error(f"{given.what} needs at least {LEAST_SECONDS[given.what]:g} seconds and one round")
    machine = facts()
    try:
        if given.what == "poison":
            result = poison(seconds, given.rounds, given.seed)
        elif given.what == "overload":
            result = overload(seconds, given.sustained, given.seed)
        else:
            result = soak(seconds, given.sustained, given.seed)
    except TidemillError as error:
        say(f"{error.message} {error.hint}")
        return error.exit_code
    machine["load_average_after"] = load_average()
    options = {"seconds": seconds, "seed": given.seed, "rounds": given.rounds, "sustained": given.sustained}
    whole = {"what": given.what, "options": options, "machine": machine, **result, "met": not result["misses"]}
    print(json.dumps(whole, indent=1) if given.json else "\n".join(f"{name}: {value}" for name, value in whole.items()))
    return 0 if whole["met"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
