"""Scoring a batch so that one bad row costs itself alone.

A graph that raises is bisected until the rows that make it raise are found; a score that is not a number in [0, 1]
condemns its own row. If *every* row fails, a probe row that scored well when the model was checked tells whether the
rows are bad or the model is broken.
"""

from typing import NamedTuple

import numpy as np

from tidemill.inference.core.model import Matrix, Model, ModelError, Scores


class ModelBrokenError(Exception):
    """The model fails on its own probe: no row is to blame, and no dead letter is due."""


class Scored(NamedTuple):
    """Scores of all rows, and why the poisonous ones have none that may be used."""

    scores: Scores
    poison: dict[int, str]


def score_rows(model: Model, rows: Matrix, size: int) -> Scored:
    """Score the first `size` rows of a batch padded to its bucket.

    Raises ModelBrokenError where no row can be scored and the probe cannot either. A bisected part is scored without
    padding: it is rare, and correctness does not depend on the shape.
    """
    poison: dict[int, str] = {}
    try:
        scores = _score(model, rows)[:size]
    except ModelError as failure:
        scores = np.full(size, np.nan, np.float32)
        if size == 1:
            poison[0] = str(failure)
        else:
            _bisect(model, rows, 0, size, scores, poison)
    valid = (scores >= 0) & (scores <= 1)  # false for NaN
    if not valid.all():
        for row in np.flatnonzero(~valid).tolist():
            poison.setdefault(row, f"the model's output is {scores[row]}, not a number in [0, 1]")
        if len(poison) == size:
            _blame(model, next(iter(poison.values())))
    return Scored(scores, poison)


def score_or_nan(model: Model, rows: Matrix, size: int) -> Scores:
    """As `score_rows` for a challenger, whose failures cost nobody anything: NaN where it has no valid score."""
    try:
        scores = _score(model, rows)[:size]
    except ModelError:
        return np.full(size, np.nan, np.float32)
    return np.where((scores >= 0) & (scores <= 1), scores, np.float32(np.nan))


def _bisect(model: Model, rows: Matrix, low: int, high: int, scores: Scores, poison: dict[int, str]) -> None:
    """Find the culprits in [low, high), which is known to fail and holds two rows or more."""
    middle = (low + high) // 2
    for start, stop in ((low, middle), (middle, high)):
        try:
            scores[start:stop] = _score(model, rows[start:stop])
        except ModelError as failure:
            if stop - start == 1:
                poison[start] = str(failure)
            else:
                _bisect(model, rows, start, stop, scores, poison)


def _score(model: Model, rows: Matrix) -> Scores:
    scores = model.score(rows)
    if scores.shape != (len(rows),):
        raise ModelError(f"{len(rows)} rows in, output of shape {scores.shape}")
    return scores


def _blame(model: Model, symptom: str) -> None:
    try:
        answer = _score(model, model.probe)
    except ModelError as failure:
        raise ModelBrokenError(str(failure)) from failure
    if not (0 <= answer[0] <= 1):
        raise ModelBrokenError(symptom)
