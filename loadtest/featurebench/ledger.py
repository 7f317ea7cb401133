"""Holds every output of a run against the right answer. Pure: it is given the outputs' bytes.

Ours carry the event's id and `features: [count, sum]`. Peers write `{"k": key, "w": start of the window in ms, "n":
count, "s": sum}`: within a tumbling window of a key the count tells its events apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from featurebench.stream import WINDOW_MS, Events, answers


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the outputs of `events` came to. Right is: as many outputs as events, and nothing else."""

    events: int
    outputs: int
    missing: int
    repeated: int
    wrong: int
    sum_of_sums: int
    expected_sum_of_sums: int

    @property
    def right(self) -> bool:
        return self.missing == self.repeated == self.wrong == 0 and self.sum_of_sums == self.expected_sum_of_sums

    def as_dict(self) -> dict[str, int | bool]:
        return {**asdict(self), "right": self.right}


class Ledger:
    """One run's books: `enter` outputs in any order, then ask for the `verdict`."""

    def __init__(self, events: Events, *, ours: bool) -> None:
        right = answers(events)
        self._counts, self._sums = right.counts.tolist(), right.sums.tolist()
        self._expected_sum = int(right.sums.sum())
        self._seen = np.zeros(len(events), np.int64)
        self._ours = ours
        self._numbers: Mapping[tuple[int, int, int], int] = {} if ours else _by_place(events, self._counts)
        self.outputs = 0
        self._wrong = 0
        self._sum = 0

    def enter(self, values: Iterable[bytes | None]) -> None:
        """Enter outputs; one that cannot be read, or that belongs to no event, counts as wrong."""
        for value in values:
            self.outputs += 1
            try:
                number, count, total = self._read(orjson.loads(value or b""))
                agrees = count == self._counts[number] and total == self._sums[number]
            except (ValueError, LookupError, TypeError):
                self._wrong += 1
                continue
            self._seen[number] += 1
            self._sum += int(total)
            self._wrong += not agrees

    def verdict(self) -> Verdict:
        return Verdict(
            events=len(self._seen),
            outputs=self.outputs,
            missing=int((self._seen == 0).sum()),
            repeated=int((self._seen[self._seen > 1] - 1).sum()),
            wrong=self._wrong,
            sum_of_sums=self._sum,
            expected_sum_of_sums=self._expected_sum,
        )

    def _read(self, output: dict[str, Any]) -> tuple[int, float, float]:
        """(number of the event, count, sum). Raises where the output is of another form or of no event."""
        if not self._ours:
            place = (int(output["k"][1:]), int(output["w"]), int(output["n"]))
            return self._numbers[place], output["n"], output["s"]
        number, (count, total) = int(output["id"]), output["features"]
        if not 0 <= number < len(self._counts):
            raise LookupError(number)
        return number, count, total


def _by_place(events: Events, counts: list[int]) -> dict[tuple[int, int, int], int]:
    """Number of the event by (key, start of its tumbling window, count in it)."""
    starts = (events.times // WINDOW_MS * WINDOW_MS).tolist()
    places = zip(events.keys.tolist(), starts, counts, strict=True)
    return {place: number for number, place in enumerate(places)}
