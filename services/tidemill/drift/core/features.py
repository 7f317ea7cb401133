"""The watches of one feature vector: the scaled value and the missing rate of each feature."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tidemill.domain.model import Reference
from tidemill.domain.pipeline import DriftSpec
from tidemill.drift.core.detectors import DetectorFactory
from tidemill.drift.core.scaling import Scaler
from tidemill.drift.core.watch import MIN_LEARNING_ROWS, Baseline, Finding, LearningWatch, Sensitivity, Watch, Watched


class Champion(NamedTuple):
    """The model version that serves, as far as drift knows it: from its verified manifest."""

    version: int
    feature_set: str
    features: tuple[str, ...]
    reference: Reference


class Found(NamedTuple):
    """A finding of the detector called `detector`."""

    detector: str
    finding: Finding


class FeatureWatches:
    """Fed matrices whose rows are live vectors and whose columns are the champion's features, NaN for null."""

    def __init__(self, champion: Champion, spec: DriftSpec, detectors: DetectorFactory) -> None:
        names = champion.features
        self._scaler = Scaler(names, champion.reference.quantiles, spec.ignore)
        self.sensitivity = Sensitivity(spec.delta / max(1, len(self._scaler.names)), spec.min_effect)
        sample = vectors(champion.reference.sample[: spec.prime_rows], len(names))
        values: list[Watched] = []
        for mean, scaled in zip(self._scaler.means, self._scaler.scale(sample), strict=True):
            prime = tuple(scaled[~np.isnan(scaled)].tolist())
            values.append(Watch(Baseline(mean, 1.0, prime), self.sensitivity, detectors))
        self._values = tuple(values)
        self._missing_indices = tuple(index for index, name in enumerate(names) if name not in spec.ignore)
        self._missing = tuple(self._missing_watch(sample[:, i], spec, detectors) for i in self._missing_indices)
        self._missing_names = tuple(names[index] for index in self._missing_indices)

    def _missing_watch(self, column: npt.NDArray[np.float64], spec: DriftSpec, detectors: DetectorFactory) -> Watched:
        nulls = np.isnan(column).astype(np.float64)
        if nulls.size == 0:  # no sample was kept: the first live values say what is usual
            return LearningWatch(MIN_LEARNING_ROWS, spec.statistics_every, self.sensitivity, detectors)
        return Watch(Baseline(float(nulls.mean()), 1.0, tuple(nulls.tolist())), self.sensitivity, detectors)

    def take(self, times: Sequence[int], matrix: npt.NDArray[np.float64]) -> Iterator[Found]:
        """The next vectors, in order; a finding's `row` is a row of `matrix`."""
        levels = self._scaler.scale(matrix)
        for row, (name, watch) in enumerate(zip(self._scaler.names, self._values, strict=True)):
            present = np.flatnonzero(~np.isnan(levels[row]))
            if present.size == len(times):
                finding = watch.take(times, levels[row].tolist())
            else:
                finding = watch.take([times[at] for at in present.tolist()], levels[row, present].tolist())
                finding = finding and finding._replace(row=int(present[finding.row]))
            if finding:
                yield Found(f"feature:{name}", finding)
        nulls = np.isnan(matrix[:, self._missing_indices]).T.astype(np.float64).tolist()
        for name, watch, column in zip(self._missing_names, self._missing, nulls, strict=True):
            finding = watch.take(times, column)
            if finding:
                yield Found(f"missing:{name}", finding)

    def means(self) -> Iterator[tuple[str, float | None]]:
        """Each watch's name with its recent mean."""
        for name, watch in zip(self._scaler.names, self._values, strict=True):
            yield f"feature:{name}", watch.mean
        for name, watch in zip(self._missing_names, self._missing, strict=True):
            yield f"missing:{name}", watch.mean


def vectors(rows: Sequence[Sequence[float | None]], width: int) -> npt.NDArray[np.float64]:
    """The rows as a matrix [rows, width], null as NaN."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)
