"""The pipelines that decoders are fuzzed for: the fraud pipeline, and the same with second streams and summaries."""

from functools import cache

from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.pipelinefile import load_pipeline, parse_pipeline, pipeline_text

_STREAMS = """streams:
  limits:
    entities: [customer]
    numbers:
      limit: {scale: 100, min: 0, max: 100000}
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
        event_time: {from: at, cast: timestamp, unit: iso8601}
        customer: {cast: string}
        terminal: {cast: string}

features:
"""
_FEATURES = """        - {name: card_limit, aggregate: last, stream: limits, field: limit, window: 90d}
        - {name: logins_1h, aggregate: count, stream: logins, window: 1h}
    - entity: terminal
      features:
        - {name: terminal_logins_1h, aggregate: count, stream: logins, window: 1h}
"""
_SUMMARIES = """      summaries:
        - {name: hourly, window: {type: tumbling, size: 1h}, fields: [{name: n, aggregate: count}]}
        - name: visit
          window: {type: session, gap: 30m, within: 1d}
          fields: [{name: total, aggregate: sum, field: amount}]
    - entity: terminal
"""


@cache
def fraud() -> Pipeline:
    return load_pipeline("fraud")


@cache
def joined() -> Pipeline:
    return _changed(
        ("topics:\n", _STREAMS),
        ("features:\n  version", _SOURCES + "  version"),
        ("    - entity: terminal\n      features:\n", _FEATURES),
    )


@cache
def summarized() -> Pipeline:
    return _changed(("    - entity: terminal\n", _SUMMARIES))


def _changed(*changes: tuple[str, str]) -> Pipeline:
    text = pipeline_text("fraud")[0]
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"the fraud pipeline does not hold once: {old!r}")
        text = text.replace(old, new)
    return parse_pipeline(text)
