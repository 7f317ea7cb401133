"""A window engine beside an oracle, over batches, aborted transactions and restores."""

import random
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from support.featureoracle import Oracle, Row, agrees
from support.featurestreams import restored, save, slide
from tidemill.features.core.definition import StageDefinition
from tidemill.features.core.engine import WindowEngine

ABORTED = 0.3
"""Share of batches whose first transaction is aborted, so that the state is read from the changelog."""


def compared(
    stage: StageDefinition,
    oracle: Oracle,
    parts: Iterable[list[Row]],
    chance: random.Random,
    changelog: dict[bytes, bytes],
) -> Iterator[tuple[WindowEngine, NDArray[np.float64]]]:
    """For each batch, once it has been held against the oracle and its state saved, the engine and the features."""
    engine = WindowEngine(stage)
    for part in parts:
        if chance.random() < ABORTED:
            slide(engine, stage, part)
            engine = restored(stage, changelog)
        matrix, status = slide(engine, stage, part)
        expected = [oracle.apply(row) for row in part]
        assert status.tolist() == [verdict for verdict, _ in expected]
        for row, got, (_, answers) in zip(part, matrix.tolist(), expected, strict=True):
            wrong = [
                (stage.names[at], value, answer)
                for at, (value, answer) in enumerate(zip(got, answers, strict=True))
                if not agrees(value, answer)
            ]
            assert wrong == [], row
        save(engine, changelog)
        yield engine, matrix
