"""What this service asks of a change detector. `river_detectors.py` is the one that runs."""

from collections.abc import Callable, Sequence
from typing import Protocol


class ChangeDetector(Protocol):
    """Watches numbers in [0,1] and says when their recent mean no longer is their earlier mean.

    Deterministic, and fed value by value: how the values are split into calls changes nothing.
    """

    def feed(self, values: Sequence[float], start: int) -> int:
        """Take `values[start:]` up to and with the first at which a change is declared; its index, or −1 if none is."""
        ...

    @property
    def mean(self) -> float:
        """Mean of what is taken for the present: after a declared change, of the values since."""
        ...


DetectorFactory = Callable[[float], ChangeDetector]
"""A detector for a false-alarm probability δ."""
