"""The fraud pipeline with two second streams: card limits of a customer, and logins of a customer at a terminal."""

import orjson

from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import Record

NOON = 1_522_584_000_000
"""Sunday 2018-04-01 12:00 UTC."""

_STREAMS = """streams:
  limits:
    entities: [customer]
    numbers:
      limit: {scale: 100, min: 0, max: 100000}
    max_lead: 2h
  logins:
    entities: [customer, terminal]

topics:
"""
_SOURCES = """    - name: card-limits
      kind: stream
      stream: limits
      topic: fraud-raw-limits
      fields:
        id: {from: change, cast: string}
        event_time: {from: at, cast: timestamp, unit: s}
        customer: {from: card, cast: string, trim: true}
        limit: {from: limit, cast: number}
    - name: logins
      kind: stream
      stream: logins
      topic: fraud-raw-logins
      fields:
        id: {cast: string}
        event_time: {from: at_ms, cast: timestamp, unit: ms}
        customer: {cast: string}
        terminal: {cast: string}

features:
"""
_OF_CUSTOMER = """        - {name: card_limit, aggregate: last, stream: limits, field: limit, window: 90d}
        - {name: limit_used, expression: amount / card_limit}
        - {name: logins_1h, aggregate: count, stream: logins, window: 1h}
    - entity: terminal
      features:
        - {name: terminal_logins_1h, aggregate: count, stream: logins, window: 1h}
        - {name: terminal_customers_1h, aggregate: distinct, stream: logins, field: customer, window: 1h, delay: 10m}
"""


def _text() -> str:
    text = pipeline_text("fraud")[0]
    for old, new in (
        ("topics:\n", _STREAMS),
        ("features:\n  version", _SOURCES + "  version"),
        ("    - entity: terminal\n      features:\n", _OF_CUSTOMER),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


JOINED_TEXT = _text()
JOINED_FRAUD = parse_pipeline(JOINED_TEXT)
CUSTOMER = [feature.name for feature in JOINED_FRAUD.features.stages[0].features]
"""Names of the first stage's vector, in order."""


def payment(id_: str, ts: int, amount: float = 10.0, customer: str = "c1", terminal: str = "t1") -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "customer": customer, "terminal": terminal, "amount": amount}
    return Record("fraud-events", 0, 0, ts, customer.encode(), orjson.dumps(value))


def limit(id_: str, ts: int, value: object = 1_000.0, customer: str = "c1") -> Record:
    record = {"v": 1, "stream": "limits", "id": id_, "event_time": ts, "customer": customer, "limit": value}
    return Record("fraud-stream-limits", 0, 0, ts, customer.encode(), orjson.dumps(record))


def login(id_: str, ts: int, customer: str = "c1", terminal: str = "t1") -> Record:
    record = {"v": 1, "stream": "logins", "id": id_, "event_time": ts, "customer": customer, "terminal": terminal}
    return Record("fraud-stream-logins", 0, 0, ts, customer.encode(), orjson.dumps(record))
