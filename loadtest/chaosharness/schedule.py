"""One seed, one schedule: which fault happens at which share of the stream, to whom. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chaosharness import failpoints
from chaosharness.journal import PROCESS, RANDOM

FAULTS = ("kill", "usurp", "zombie", "storm", "clock", "burst", "network", "broker-kill", "broker-stop", "disk-full")
"""`usurp`: another producer takes the transactional id, so that the service finds itself fenced in mid-stream."""
ALL_STAND_STILL = frozenset({"broker-kill", "broker-stop", "disk-full", "network"})
"""Faults that hold up every service at once."""
NETWORK = ("delay", "reset", "half-open", "hold")
KILLABLE = ("ingest", "features-customer", "features-terminal", "features-outcomes", "inference", "drift")
_STATEFUL = frozenset(KILLABLE) - {"ingest"}
_SPLIT = ("features-terminal", "features-outcomes", "inference")
"""Services whose partitions may be shared by several instances here. Where one of them is given up, its part stands
still for a session of 6 or 10 s, which is hours of this compressed stream. Behind ingest and the customers' stage,
which re-key, so late a record is refused, and rightly so; by a stream in real time it would be seconds late."""
_ZOMBIES = ("features-terminal", "inference")
_ZOMBIE_POINTS = (failpoints.LAST_PRODUCE, failpoints.BEFORE_OFFSETS, "after-send-offsets", "after-begin")
_EVERY = 5
"""One kill in so many is aimed at no failpoint."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`share` is how much of the stream has been predicted when it happens. `detail` is the failpoint of a kill, or
    the seconds that something stays stopped. Several services, joined by +, are zombies at the same time."""

    share: float
    kind: str
    service: str
    detail: str = ""

    @property
    def name(self) -> str:
        """What is counted: the kind, and of the network's which."""
        return f"{self.kind}-{self.detail}" if self.kind == "network" else self.kind

    def as_dict(self) -> dict[str, Any]:
        return {"share": round(self.share, 5), "kind": self.kind, "service": self.service, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of each."""

    kills: int
    usurpations: int = 0
    broker_kills: int = 0
    broker_stops: int = 0
    disks_full: int = 0
    clock_jumps: int = 0
    bursts: int = 0
    network: int = 0
    """Of each kind of network fault."""
    zombies: int = 0
    storms: int = 0
    swaps: int = 0
    """No fault by itself: a new model, so that something can die in the middle of taking it over."""


def plan(seed: int, counts: Counts, services: Sequence[str] = KILLABLE) -> list[Fault]:
    """All faults in the order of their share. Every failpoint that a service can meet comes about equally often; every
    fifth kill is at a random moment instead, and every second of these takes the whole process."""
    chance = random.Random(seed)
    faults = [_kill(chance, number, services) for number in range(counts.kills)]
    faults += [Fault(_moment(chance), "broker-kill", "kafka") for _ in range(counts.broker_kills)]
    faults += [
        Fault(_moment(chance), "broker-stop", "kafka", f"{chance.uniform(5, 30):.1f}")
        for _ in range(counts.broker_stops)
    ]
    faults += [Fault(_moment(chance), "burst", "ingest") for _ in range(counts.bursts)]
    faults += [Fault(_moment(chance), "network", "all", kind) for kind in NETWORK for _ in range(counts.network)]
    faults += [Fault(_moment(chance), "disk-full", "kafka") for _ in range(counts.disks_full)]
    faults += [
        Fault(_moment(chance), "clock", "all", str(chance.choice((-1, 1)) * 3_600)) for _ in range(counts.clock_jumps)
    ]
    zombies = [name for name in _ZOMBIES if name in services]
    for first in range(0, counts.zombies if zombies else 0, len(zombies) or 1):
        together = zombies[: counts.zombies - first]
        faults.append(Fault(_moment(chance), "zombie", "+".join(together), chance.choice(_ZOMBIE_POINTS)))
    stormy = [name for name in services if name in _SPLIT]
    faults += [Fault(_moment(chance), "storm", chance.choice(stormy)) for _ in range(counts.storms if stormy else 0)]
    faults += [Fault(_moment(chance), "usurp", chance.choice(services)) for _ in range(counts.usurpations)]
    faults += [Fault(_moment(chance), "swap", "inference") for _ in range(counts.swaps)]
    return sorted(faults)


def _kill(chance: random.Random, number: int, services: Sequence[str]) -> Fault:
    share = _moment(chance)
    if number % _EVERY == _EVERY - 1:
        detail = PROCESS if number % (2 * _EVERY) == 2 * _EVERY - 1 else RANDOM
        return Fault(share, "kill", chance.choice(services), detail)
    name = failpoints.FAILPOINTS[(number - number // _EVERY) % len(failpoints.FAILPOINTS)]
    if name == failpoints.MODEL_SWAP:
        able: Sequence[str] = [service for service in services if service == "inference"]
    elif name == failpoints.ON_REVOKE:
        able = [service for service in services if service in _SPLIT]
    elif name in (failpoints.STATE, failpoints.MID_RESTORE):
        able = [service for service in services if service in _STATEFUL]
    else:
        able = services
    return Fault(share, "kill", chance.choice(able), name) if able else Fault(share, "kill", services[0], RANDOM)


def _moment(chance: random.Random) -> float:
    """Not in the first seconds, when nothing has state yet, nor so late that nothing comes after it."""
    return chance.uniform(0.03, 0.95)
