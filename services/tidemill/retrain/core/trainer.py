"""What a pipeline's trainer class offers; the pipeline file names it as `module:Class`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Parameters = Mapping[str, int | float | str | bool]


class Trainer(Protocol):
    """Fits one model; constructed without arguments, in the training process."""

    def fit(
        self, features: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], *, seed: int, parameters: Parameters
    ) -> "torch.nn.Module":
        """A module in eval mode that maps float32 [batch, n] to scores float32 [batch] in [0, 1].

        `features` are the rows as served, NaN where a feature was undefined; `labels` are 0 or 1 and hold both. All
        preprocessing (imputing NaN, scaling) is part of the module, so the exported graph takes raw vectors. The same
        arguments give the same weights on the same machine. Blocks until done.
        """
        ...
