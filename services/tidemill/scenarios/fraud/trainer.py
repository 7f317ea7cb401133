"""The fraud model: a small multilayer perceptron over the handbook's fifteen features, preprocessing inside the graph.

Preprocessing: NaN becomes the column's median, then columns are standardised by the training rows. The clip is wide on
purpose: the tails of amounts and fraud shares are signal (at 8 deviations it cost .06 of average precision, at 20
nothing); it only keeps a wild value from swamping the network.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tidemill.retrain.core.trainer import Parameters

_CLIP = 20.0


class FraudNetwork(nn.Module):
    """float32 [batch, n] → score float32 [batch] in [0, 1]; NaN is imputed."""

    def __init__(self, features: npt.NDArray[np.float32], hidden: tuple[int, int]) -> None:
        super().__init__()
        centre = np.nan_to_num(np.nanmedian(_with_a_row(features), axis=0))
        filled = np.where(np.isnan(features), centre, features)
        mean, spread = filled.mean(axis=0), filled.std(axis=0)
        # A constant column carries nothing to learn from; scale 1 keeps it finite when it starts to vary.
        scale = np.where(spread > 1e-6, spread, 1.0)
        self.centre: torch.Tensor
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.layers = nn.Sequential(
            nn.Linear(features.shape[1], hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], 1),
        )

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        filled = torch.where(torch.isnan(features), self.centre, features)
        return ((filled - self.mean) / self.scale).clamp(-_CLIP, _CLIP)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layers(self.scaled(features)).squeeze(-1))


class FraudTrainer:
    """Adam on the log loss; parameters `epochs`, `hidden_1`, `hidden_2`, `learning_rate`, `batch_size`."""

    def fit(
        self, features: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], *, seed: int, parameters: Parameters
    ) -> nn.Module:
        """As `Trainer.fit`."""
        torch.manual_seed(seed)
        hidden = (int(parameters.get("hidden_1", 64)), int(parameters.get("hidden_2", 32)))
        network = FraudNetwork(features, hidden)
        with torch.no_grad():
            inputs = network.scaled(torch.from_numpy(features))
            # Frauds are rare: starting at their share saves the epochs that would only learn it.
            share = min(max(float(labels.mean()), 1e-4), 1 - 1e-4)
            last = network.layers[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(math.log(share / (1 - share)))
        self._optimise(network, inputs, torch.from_numpy(labels), parameters)
        return network.eval()

    @staticmethod
    def _optimise(network: FraudNetwork, inputs: torch.Tensor, labels: torch.Tensor, parameters: Parameters) -> None:
        """Shuffles by one permutation an epoch and slices it: a DataLoader would cost more than the arithmetic."""
        batch = int(parameters.get("batch_size", 512))
        optimiser = torch.optim.Adam(network.parameters(), lr=float(parameters.get("learning_rate", 2e-3)))
        loss_of = nn.BCEWithLogitsLoss()
        for _ in range(int(parameters.get("epochs", 20))):
            order = torch.randperm(labels.numel())
            shuffled, truth = inputs[order], labels[order]
            for start in range(0, labels.numel(), batch):
                optimiser.zero_grad(set_to_none=True)
                logits = network.layers(shuffled[start : start + batch]).squeeze(-1)
                loss_of(logits, truth[start : start + batch]).backward()
                optimiser.step()


def _with_a_row(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A column of nothing but NaN would make nanmedian warn; one row of zeros stands in for it."""
    missing = np.isnan(features).all(axis=0)
    return np.where(missing, np.float32(0.0), features)
