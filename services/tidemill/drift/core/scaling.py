"""Numeric features scaled to the ranks they would have had in the active model's training data.

ADWIN's bound holds for values in [0,1]. Dividing by a maximum would let one heavy tail decide the mean; a rank cannot
be moved far by any single value, and a shift means the same on every feature: 0.1 is ten percentiles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Scaler:
    """The features of a vector that can be compared, each with the grid of its training quantiles.

    x ↦ the level at which the grid passes x: interpolated between two grid points, the mean level over a run of equal
    grid points (the mid-rank, so that the training data themselves average ½), 0 below the grid and 1 above it.
    A feature that was constant in training maps to 0 where x equals that constant and to 1 elsewhere.
    """

    def __init__(
        self, features: Sequence[str], quantiles: Mapping[str, Sequence[float]], ignore: Sequence[str] = ()
    ) -> None:
        """A feature without quantiles (every training value was missing) or named in `ignore` is left out."""
        kept = [(index, name) for index, name in enumerate(features) if name not in ignore and quantiles.get(name)]
        self.names = tuple(name for _, name in kept)
        self._indices = np.array([index for index, _ in kept], dtype=np.int64)
        self._grids = [_grid(quantiles[name]) for name in self.names]
        self._constant = np.array([grid[0] == grid[-1] for grid in self._grids], dtype=np.bool_)
        self._lowest = np.array([grid[0] for grid in self._grids])[:, None]

    @property
    def means(self) -> list[float]:
        """What the training data of each kept feature average on this scale."""
        return [0.0 if constant else 0.5 for constant in self._constant]

    def scale(self, matrix: FloatArray) -> FloatArray:
        """[kept features, rows] in [0,1] from `matrix` [rows, features]; NaN stays NaN."""
        values = matrix[:, self._indices].T
        missing = np.isnan(values)
        present = np.where(missing, self._lowest, values)
        low, high, base, span = (np.empty_like(present) for _ in range(4))
        on_grid = np.empty(present.shape, dtype=np.bool_)
        for row, grid in enumerate(self._grids):  # all that differs by feature; the rest is done for all at once
            last = grid.size - 1
            left = np.searchsorted(grid, present[row], side="left")
            right = np.searchsorted(grid, present[row], side="right")
            above = np.clip(left, 1, last)
            low[row], high[row] = grid[above - 1], grid[above]
            on_grid[row] = right > left
            base[row] = np.where(on_grid[row], (left + right - 1) / 2, above - 1)
            span[row] = last
        gap = np.where(high > low, high - low, 1.0)
        between = np.where(on_grid, 0.0, np.clip((present - low) / gap, 0.0, 1.0))
        levels = (base + between) / span
        levels[self._constant] = (values != self._lowest)[self._constant]
        levels[missing] = np.nan
        return levels


def _grid(quantiles: Sequence[float]) -> FloatArray:
    grid = np.asarray(quantiles, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2 or not np.isfinite(grid).all() or (np.diff(grid) < 0).any():
        raise ValueError("quantiles are at least two finite numbers in ascending order")
    return grid
