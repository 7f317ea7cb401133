"""Which aims a run met; each function answers with the reasons why not, and an empty list is a pass. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

POISON_SHARE = 0.1
"""Bad records of all that the topic of payments gets."""
POISON_AIM = 0.8
OVERLOAD = 3.0
OFFERED_AT_LEAST = 2.9
"""Times what is sustained: an overload that the sender could not offer was none."""
BEHIND_AT_LEAST = 1.0
"""Seconds' worth of sustained events for each second of overload. Three times as much leaves two behind; where it is
less than one, what was called sustained was far too little."""
DRAIN_AIM = 2.0
"""Times the overload's length."""
MEMORY_AIM_MB = 1_024
"""Of one service's process tree, its pages that others share in parts, whatever waits for it. It bounds what does not
depend on the backlog: code and libraries, what is read ahead (about 10,000 records a partition and the client's own
queue), what a transaction holds, and the state of the stream's keys. A stage that took in its backlog would pass it:
five minutes of 20,000 events a second are six million records."""
SATURATED_S = 1.0
"""Seconds' worth of events that must wait at both ends of a measurement, or the sender may have been what bounds it."""
LAG_AIM_S = 10.0
"""Seconds' worth of events that a stage may be behind at half of what is sustained."""


def bad_per_valid(share: float) -> float:
    """Bad records to add to each valid one so that they are `share` of all."""
    return share / (1 - share)


@dataclass(frozen=True)
class Flow:
    """A measurement of throughput: what came out, what it cost, and what was waiting at its two ends."""

    events: int
    seconds: float
    cpu_seconds: float
    """Of the services, without broker and harness."""
    waiting: tuple[int, int]
    """Records in front of the stage that had most, before and after."""

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_s_per_thousand(self) -> float:
        return 1_000 * self.cpu_seconds / max(self.events, 1)

    @property
    def saturated(self) -> bool:
        return self.events > 0 and min(self.waiting) >= SATURATED_S * self.per_second

    def as_dict(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "seconds": round(self.seconds, 2),
            "per_second": round(self.per_second, 1),
            "cpu_s_per_thousand": round(self.cpu_s_per_thousand, 4),
            "waiting_before": self.waiting[0],
            "waiting_after": self.waiting[1],
            "saturated": self.saturated,
        }


def poison_ratios(rounds: Sequence[tuple[Flow, Flow]]) -> dict[str, float]:
    """Of clean and poisoned, by rate and by the CPU that an event costs: medians over the rounds."""
    return {
        "ratio": median(poisoned.per_second / clean.per_second for clean, poisoned in rounds),
        "cpu_ratio": median(clean.cpu_s_per_thousand / poisoned.cpu_s_per_thousand for clean, poisoned in rounds),
    }


def poison_misses(rounds: Sequence[tuple[Flow, Flow]]) -> list[str]:
    misses = [
        f"round {number}, {name}: the stream was not saturated"
        for number, pair in enumerate(rounds, 1)
        for name, flow in zip(("clean", "poisoned"), pair, strict=True)
        if not flow.saturated
    ]
    if any(flow.events == 0 for pair in rounds for flow in pair):
        return [*misses, "a round without an event"]
    ratio = poison_ratios(rounds)["ratio"]
    return misses + ([f"{ratio:.3f} of the clean rate, not {POISON_AIM}"] if ratio < POISON_AIM else [])


@dataclass(frozen=True)
class Overload:
    """What an overload was like; `seconds` is how long was sent."""

    sustained: float
    seconds: float
    sent: int
    behind: int
    """Valid events without a prediction when the sending ended."""
    drained_s: float | None
    """Until no stage had anything left; None where that never came."""

    @property
    def offered(self) -> float:
        """Times what is sustained."""
        return self.sent / self.seconds / self.sustained


def overload_misses(run: Overload, most_mb: Mapping[str, float], books: Mapping[str, int]) -> list[str]:
    misses = []
    if run.offered < OFFERED_AT_LEAST:
        misses.append(f"could not offer it: {run.offered:.2f} times what is sustained was sent, not {OVERLOAD:g}")
    if run.behind < BEHIND_AT_LEAST * run.sustained * run.seconds:
        misses.append(f"no overload: only {run.behind} events were behind at its end")
    if run.drained_s is None:
        misses.append("the lag never drained")
    elif run.drained_s > DRAIN_AIM * run.seconds:
        misses.append(f"drained in {run.drained_s / run.seconds:.2f} times the overload's length, not {DRAIN_AIM:g}")
    misses += [f"{name} took {mb} MB, more than {MEMORY_AIM_MB}" for name, mb in most_mb.items() if mb > MEMORY_AIM_MB]
    return misses + book_misses(books)


def soak_misses(
    services: Mapping[str, Mapping[str, Any]],
    most_behind_s: Mapping[str, float],
    drained: bool,
    books: Mapping[str, int],
) -> list[str]:
    """`services` are the verdicts of `Series`, `most_behind_s` the largest lag of each in seconds' worth of events."""
    names = {"memory_grows": "memory grows", "files_grow": "open files grow", "replaced": "a process was replaced"}
    misses = [f"{service}: {said}" for service, one in services.items() for key, said in names.items() if one[key]]
    misses += [
        f"{service} was {behind:.1f} s behind, more than {LAG_AIM_S:g}"
        for service, behind in most_behind_s.items()
        if behind > LAG_AIM_S
    ]
    if not most_behind_s:
        misses.append("nobody looked whether a stage was behind")
    return misses + ([] if drained else ["something was left when nothing more came"]) + book_misses(books)


def books(report: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, int]:
    """The audit's account beside the sender's. `turned_late`: valid payments that a stage took for late, so that they
    got no prediction; those that the sender made late on purpose are not among them."""
    of_audit = {
        name: int(report[name]) for name in ("events", "predictions", "missing", "repeated", "foreign", "unnamed")
    }
    return {
        "sent": int(sent["payments"]),
        **of_audit,
        "turned_late": max(0, int(report["late"]) - int(sent["dead_letters"].get("late", 0))),
    }


def book_misses(books: Mapping[str, int]) -> list[str]:
    wrong = ("missing", "repeated", "foreign", "unnamed", "turned_late")
    misses = [f"{books[name]} predictions {name}" for name in wrong if books[name]]
    if books["predictions"] != books["sent"]:
        misses.append(f"{books['sent']} valid events and {books['predictions']} predictions")
    return misses
