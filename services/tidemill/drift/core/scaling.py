"""Numeric features scaled to the ranks they would have had in the active model's training data.

ADWIN's bound holds for values in [0,1]. Dividing by a maximum would let one heavy tail decide the mean; a rank cannot
be moved far by any single value, and a shift means the same on every feature: 0.1 is ten percentiles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Column:
    """One feature's scale: the training quantiles at equally spaced levels, ascending.

    x ↦ the level at which the grid passes x: interpolated between two grid points, the mean level over a run of equal
    grid points (the mid-rank, so that the training data themselves average ½), 0 below the grid and 1 above it.
    A column that was constant in training maps to 0 where x equals that constant and to 1 elsewhere.
    """

    def __init__(self, quantiles: Sequence[float]) -> None:
        grid = np.asarray(quantiles, dtype=np.float64)
        if grid.ndim != 1 or grid.size < 2 or not np.isfinite(grid).all() or (np.diff(grid) < 0).any():
            raise ValueError("quantiles are at least two finite numbers in ascending order")
        self._grid = grid
        self.constant = bool(grid[0] == grid[-1])

    @property
    def mean(self) -> float:
        """What the training data average on this scale."""
        return 0.0 if self.constant else 0.5

    def scale(self, values: FloatArray) -> FloatArray:
        """`values` in [0,1]; NaN stays NaN."""
        grid = self._grid
        missing = np.isnan(values)
        scaled: FloatArray
        if self.constant:
            scaled = (values != grid[0]).astype(np.float64)
        else:
            scaled = self._levels(np.where(missing, grid[0], values))
        scaled[missing] = np.nan
        return scaled

    def _levels(self, values: FloatArray) -> FloatArray:
        grid = self._grid
        last = grid.size - 1
        left = np.searchsorted(grid, values, side="left")
        right = np.searchsorted(grid, values, side="right")
        on_grid = (left + right - 1) / 2
        above = np.clip(left, 1, last)
        low, high = grid[above - 1], grid[above]
        gap = np.where(high > low, high - low, 1.0)
        between = above - 1 + np.clip((values - low) / gap, 0.0, 1.0)
        levels = np.where(right > left, on_grid, np.where(left == 0, 0.0, np.where(left > last, last, between)))
        return np.asarray(levels / last, dtype=np.float64)


class Scaler:
    """The columns of a feature vector that can be compared, in the vector's order."""

    def __init__(
        self, features: Sequence[str], quantiles: Mapping[str, Sequence[float]], ignore: Sequence[str]
    ) -> None:
        """A feature without quantiles (every training value was missing) or named in `ignore` is left out."""
        kept = [(index, name) for index, name in enumerate(features) if name not in ignore and quantiles.get(name)]
        self.names = tuple(name for _, name in kept)
        self.indices = tuple(index for index, _ in kept)
        self.columns = tuple(Column(quantiles[name]) for name in self.names)

    def scale(self, matrix: FloatArray) -> list[FloatArray]:
        """One array per kept feature from `matrix` [rows, features]."""
        return [column.scale(matrix[:, index]) for column, index in zip(self.columns, self.indices, strict=True)]
