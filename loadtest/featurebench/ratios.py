"""From rounds to the figures that are reported: medians over rounds of paired ratios. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Pair:
    """One of our runs and the peer's run that followed it, as events per CPU-second."""

    round: int
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The median of the rounds' ratios, and how far the rounds lie apart. Raises ValueError for no rounds."""
    if not pairs:
        raise ValueError("no rounds")
    ratios = [pair.ratio for pair in pairs]
    return {
        "ratio": figure(median(ratios)),
        "lowest": figure(min(ratios)),
        "highest": figure(max(ratios)),
        "rounds": len(pairs),
        "ours_events_per_cpu_second": figure(median(pair.ours for pair in pairs)),
        "theirs_events_per_cpu_second": figure(median(pair.theirs for pair in pairs)),
    }


def table(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, float]:
    """Peer → median ratio, of the peers that have a round."""
    return {peer: summarize(rounds)["ratio"] for peer, rounds in pairs.items() if rounds}


def state_share(with_state: Sequence[float], without: Sequence[float]) -> float:
    """Which part of the CPU of an event goes into keeping state, from rates of runs with and without it."""
    return figure(1 - median(with_state) / median(without))


def percentiles(values: Iterable[float], shares: Sequence[float] = (0.5, 0.99)) -> list[float]:
    """The smallest value that at least each share of `values` does not exceed. Raises ValueError for none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return [ordered[max(0, -int(-share * len(ordered) // 1) - 1)] for share in shares]


def figure(value: float) -> float:
    """Four significant digits: more would claim what no run of a minute can tell."""
    return float(f"{value:.4g}")
