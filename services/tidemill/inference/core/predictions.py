"""Scores → prediction and shadow records.

A prediction is the feature record with members added before its last brace, so the vector that was scored travels
with the score, byte for byte.
"""

from functools import lru_cache

import numpy as np
import orjson

from tidemill.domain.pipeline import Pipeline
from tidemill.inference.core.blocks import Block
from tidemill.inference.core.model import Model, Scores
from tidemill.inference.core.rows import Rows
from tidemill.runtime.service import DeadLetter, OutRecord

RULE_PROVIDER = "rule"


class PredictionWriter:
    """Writes the records of one pipeline's predictions and shadow topics."""

    def __init__(self, pipeline: Pipeline) -> None:
        decision = pipeline.decision
        self._topic = pipeline.topic("predictions")
        self._shadow_topic = pipeline.topic("shadow")
        self._entity = orjson.dumps(pipeline.primary_entity)
        self._model_name = pipeline.model.name
        self._output = pipeline.model.output
        self._above = decision.fallback.above
        # float32, as the scores are: a score that prints as the threshold is then at the threshold
        self._threshold = np.float32(decision.threshold)
        self._decisions = (decision.negative, decision.positive)

    def scored(self, rows: Rows, block: Block) -> tuple[list[OutRecord], list[DeadLetter]]:
        """Predictions of a scored block; rows the model could not score become dead letters (`model_error`)."""
        champion = block.route.champion
        if champion is None:
            return self.ruled(rows), []
        texts = _json_numbers(block.scores)
        positive = (block.scores >= self._threshold).tolist()
        head = self._head("ok", champion.name, champion.version)
        topic, poison = self._topic, block.poison
        predictions: list[OutRecord] = []
        dead: list[DeadLetter] = []
        for low, high, bucket in block.pieces:
            tails = self._tails(bucket, champion.provider)
            for index in range(low, high):
                record = rows.records[index]
                if index in poison:
                    dead.append(DeadLetter(record, "model_error", poison[index]))
                    continue
                value = record.value or b""
                body = b"%b%b%b%b" % (value[:-1], head, texts[index], tails[positive[index]])
                predictions.append(OutRecord(topic, record.key, body, rows.decoded[index].event_time))
        return predictions, dead

    def shadow(self, rows: Rows, block: Block) -> list[OutRecord]:
        """What the challenger said of the rows that got a prediction, where it said something valid."""
        challenger = block.route.challenger
        if challenger is None or block.shadow is None:
            return []
        texts = _json_numbers(block.shadow)
        middle = b',"model":%b,"model_version":%d,"outputs":{%b:' % (
            orjson.dumps(challenger.name),
            challenger.version,
            orjson.dumps(self._output),
        )
        records = []
        for index in np.flatnonzero(np.isfinite(block.shadow)).tolist():
            if index in block.poison:
                continue
            record, row = rows.records[index], rows.decoded[index]
            body = b'{"v":1,"id":%b,"event_time":%d,%b:%b%b%b}}' % (
                orjson.dumps(row.id),
                row.event_time,
                self._entity,
                orjson.dumps((record.key or b"").decode("utf-8", "replace")),
                middle,
                texts[index],
            )
            records.append(OutRecord(self._shadow_topic, record.key, body, row.event_time))
        return records

    def ruled(self, rows: Rows) -> list[OutRecord]:
        """Predictions by the pipeline's fallback rule, while no model is live."""
        head = self._head("no_model", None, None)
        tails = self._tails(0, RULE_PROVIDER)
        endings = (head + b"0.0" + tails[False], head + b"1.0" + tails[True])
        topic, above = self._topic, self._above
        return [
            OutRecord(topic, record.key, (record.value or b"")[:-1] + endings[row.measure > above], row.event_time)
            for record, row in zip(rows.records, rows.decoded, strict=True)
        ]

    def _head(self, status: str, model: str | None, version: int | None) -> bytes:
        members = orjson.dumps({"status": status, "model": model, "model_version": version})
        return b",%b,%b" % (members[1:-1], b'"outputs":{%b:' % orjson.dumps(self._output))

    def _tails(self, bucket: int, provider: str) -> tuple[bytes, bytes]:
        return _tails(self._decisions, bucket, provider)


@lru_cache(maxsize=256)
def _tails(decisions: tuple[str, str], bucket: int, provider: str) -> tuple[bytes, bytes]:
    negative, positive = (
        b"},%b" % orjson.dumps({"decision": decision, "bucket": bucket, "provider": provider})[1:]
        for decision in decisions
    )
    return negative, positive


def _json_numbers(scores: Scores) -> list[bytes]:
    """Shortest text of each float32; what is not finite becomes `null` and must not be used."""
    return orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def version_of(model: Model | None) -> int | None:
    return None if model is None else model.version
