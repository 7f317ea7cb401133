"""What the service asks of a model, whatever runtime executes it."""

from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
"""Rows × features, C-contiguous; NaN stands for an undefined feature."""

Scores = npt.NDArray[np.float32]
"""One score a row."""

Device = Literal["auto", "cpu", "cuda"]
"""Where models are to run; `auto` takes CUDA where there is a device."""


class ModelError(Exception):
    """The model could not score a batch. Says nothing about which row is to blame; `isolation` finds out."""


class Model(Protocol):
    """A loaded model version. Used by one thread at a time; two models are the same only if they are one object."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def provider(self) -> str:
        """What executes it, e.g. `CPUExecutionProvider`."""
        ...

    @property
    def probe(self) -> Matrix:
        """One row that this model scored correctly when it was checked; it tells a bad row from a broken model."""
        ...

    def score(self, rows: Matrix) -> Scores:
        """Score a padded batch: rows [n, features] → [n]. The result is not checked. Raises ModelError."""
        ...


class Route(NamedTuple):
    """Which loaded models score a block: rows of different routes never share a batch.

    Champion None with a challenger: the fallback rule serves, and the challenger is compared with it.
    """

    champion: Model | None
    challenger: Model | None = None
