"""Does a figure of a process grow for good, or does it only go up and down? Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCKS = 12
_T = 2.764
"""Student's t, 10 degrees of freedom (two less than blocks), one-sided at 99 %."""
SHARE = 0.01
"""Of what a process holds. Less growth than that over half an hour is no leak that anybody would meet within days."""


@dataclass(frozen=True)
class Growth:
    """Of a line through a series: `growth` over its whole length, and what it is at least, at 99 %."""

    mean: float
    growth: float
    at_least: float
    grows: bool


def growth(at: Sequence[float], values: Sequence[float], share: float = SHARE) -> Growth:
    """The growth of `values`, taken at the moments `at`; it counts if it is more than noise **and** more than `share`.

    Neighbouring samples of memory are alike: garbage piles up and is collected, arenas fill and are packed. A line
    through all samples would take each for news and call every drift significant. So the series is cut into 12 blocks
    of equal length and the line goes through their means, which stand for themselves when a block is longer than such a
    cycle. Noise makes its slope uncertain, and only what is left of it at 99 % counts as growth: a noisy series must
    rise further to be called growing, but no noise makes a rise acceptable that shows through it. A certain rise may
    still be tiny, hence the second bound. A cycle longer than about a fifth of the series may pass for growth, and a
    rise that drowns in the scatter stays unseen: both need a longer run. Raises ValueError for fewer samples than
    blocks.
    """
    if len(values) < BLOCKS or len(at) != len(values):
        raise ValueError(f"{len(values)} samples at {len(at)} moments: at least {BLOCKS} are needed")
    moments, means = _means(at), _means(values)
    slope, start = np.polyfit(moments, means, 1)
    scatter = float(np.sqrt(((means - start - slope * moments) ** 2).sum() / (BLOCKS - 2)))
    error = scatter / float(np.sqrt(((moments - moments.mean()) ** 2).sum()))
    span = at[-1] - at[0]
    mean, most_likely, at_least = float(means.mean()), float(slope) * span, (float(slope) - _T * error) * span
    return Growth(mean, most_likely, at_least, grows=at_least > 0 and most_likely > share * mean)


def rises(counts: Sequence[int]) -> bool:
    """Whether a count that should be level (open files) has risen for good: everything in the last third is above
    everything in the first. Connections that come and go do not matter, one descriptor that stays does."""
    third = len(counts) // 3
    return third > 0 and min(counts[-third:]) > max(counts[:third])


def _means(values: Sequence[float]) -> NDArray[np.float64]:
    return np.array([block.mean() for block in np.array_split(np.asarray(values, np.float64), BLOCKS)])
