"""Every rule of the pipeline file has a file that breaks it, and is shown at the line and column of the mistake."""

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from support.joinedpipeline import JOINED_TEXT
from support.summaryrefusals import SUMMARY_RULES
from tidemill.domain import (
    derivedrules,
    featurerules,
    pipelinerules,
    sourcerules,
    statebounds,
    streamrules,
    summaryrules,
    windowrules,
)
from tidemill.errors import ConfigurationError
from tidemill.runtime import pipelinecontracts
from tidemill.runtime.pipelinefile import Problem, load_pipeline, parse_pipeline, pipeline_text, problems
from tidemill_schemas import pipeline_schema

SHIPPED = pipeline_text("fraud")[0]
RULE_MODULES = (
    *(pipelinerules, featurerules, windowrules, statebounds, derivedrules, summaryrules, sourcerules, streamrules),
    pipelinecontracts,
)

# What is replaced in the shipped file, by what; the path of the mistake, and part of what is said.
RULES: dict[str, tuple[str, str, str, str]] = {
    "entity twice": ("[customer, terminal]", "[customer, terminal, customer]", "event.entities.2", "named twice"),
    "entity named as a record's field": ("[customer, terminal]", "[customer, terminal, fs]", "event.entities.2", "fs"),
    "entity named as a stage": ("[customer, terminal]", "[customer, terminal, drift]", "event.entities.2", "stage"),
    "number named as a record's field": ("amount: {scale", "bucket: {scale", "event.numbers.bucket", "every record"),
    "number that is an entity": ("amount: {scale", "customer: {scale", "event.numbers.customer", "an entity already"),
    "number with min above max": ("min: 0, max: 100000}", "min: 9, max: 3}", "event.numbers.amount", "min 9 is above"),
    "sums beyond 2^53": ("scale: 100,", "scale: 1000000,", "event.numbers.amount", "passes 2^53"),
    "label field of every record": ("field: fraud", "field: status", "label.field", "every record"),
    "label field of the event": ("field: fraud", "field: amount", "label.field", "a field of the event"),
    "retention below what is needed": ("retention_ms: -1", "retention_ms: 1000", "topics.retention_ms", "1209600000"),
    "version that replaces itself": (
        *("features:\n  version: 1\n", "features:\n  version: 1\n  replaces: 1\n", "features.replaces"),
        "raise features.version",
    ),
    "version that takes over from windows in memory": (
        "features:\n  version: 1\n",
        *("features:\n  version: 2\n  replaces: 1\n  state: memory\n", "features.replaces", "takes over nothing"),
    ),
    "two stages of an entity": ("entity: terminal", "entity: customer", "features.stages.1.entity", "second stage"),
    "first stage of another entity": ("entity: customer", "entity: terminal", "features.stages.0.entity", "keyed by"),
    "stage of an unknown entity": ("entity: terminal", "entity: merchant", "features.stages.1.entity", "customer, ter"),
    "two features of a name": ("name: night", "name: weekend", "features.stages.0.features.2.name", "already"),
    "feature of two kinds": (
        *("{name: night,", "{name: night, value: amount,", "features.stages.0.features.2"),
        "calendar and value",
    ),
    "feature of no kind": (", calendar: night", "", "features.stages.0.features.2", "none of them"),
    "value of an unknown field": ("value: amount", "value: sum", "features.stages.0.features.0.value", "'sum'"),
    "expression that cannot be read": (
        *("calendar: night", "expression: amount * (2", "features.stages.0.features.2.expression"),
        "column 12 of 'amount * (2': ')' is missing",
    ),
    "expression over an unknown name": (
        *("calendar: night", "expression: log(amout)", "features.stages.0.features.2.expression"),
        "column 5 of 'log(amout)': unknown name 'amout'; did you mean 'amount'?",
    ),
    "expression over a later stage": (
        *("calendar: night", "expression: terminal_count_1d + 1", "features.stages.0.features.2.expression"),
        "is a feature of the later stage 'terminal'",
    ),
    "expression over itself": (
        *("calendar: night", "expression: night + 1", "features.stages.0.features.2.expression"),
        "'night' is the feature itself, and no number field",
    ),
    "expressions in a circle": (
        "{name: night, calendar: night}",
        "{name: night, expression: day}\n        - {name: day, expression: 1 - night}",
        "features.stages.0.features.2.expression",
        "goes in a circle: night → day → night",
    ),
    "window without an aggregate": (
        *("calendar: night", "calendar: night, window: 1d", "features.stages.0.features.2.window"),
        "window is for aggregates",
    ),
    "aggregate without a window": ("count, window: 1d}", "count}", "features.stages.0.features.3", "needs a window"),
    "mean without a field": ("mean, field: amount,", "mean,", "features.stages.0.features.4", "needs a field"),
    "mean of an unknown field": (
        *("mean, field: amount,", "mean, field: sum,", "features.stages.0.features.4.field"),
        "unknown field 'sum'",
    ),
    "count of a field": (
        *("count, window: 1d}", "count, window: 1d, field: amount}", "features.stages.0.features.3.field"),
        "count takes no field",
    ),
    "label rate without a delay": (
        *("label_rate, window: 1d, delay: 7d", "label_rate, window: 1d", "features.stages.1.features.1"),
        "must be at least features.label_lateness",
    ),
    "label rate with too short a delay": (
        *("label_rate, window: 1d, delay: 7d", "label_rate, window: 1d, delay: 6d"),
        *("features.stages.1.features.1.delay", "(518400000 ms)"),
    ),
    "window longer than the engine holds": (
        *("count, window: 30d}", "count, window: 3650d, delay: 1ms}", "features.stages.0.features.7"),
        "together are longer than 3650d",
    ),
    "window longer than events are kept": (
        *("retention_ms: -1", "retention_ms: 1300000000", "features.stages.0.features.7.window"),
        "'customer_count_30d' reaches back 2595600000 ms",
    ),
    "limits that limit nothing": (
        *("allowed_lateness: 1h", "allowed_lateness: 1h\n  state_limits: {when_full: evict}", "features.state_limits"),
        "say max_keys, max_bytes or both",
    ),
    "rows to merge into no cells": (
        *("- entity: customer", "- max_rows_per_key: 100\n      entity: customer"),
        *("features.stages.0.max_rows_per_key", "max_rows_per_key needs bucket"),
    ),
    "cells of no rows to merge": (
        *("- entity: customer", "- bucket: 1h\n      entity: customer"),
        *("features.stages.0.bucket", "bucket needs max_rows_per_key"),
    ),
    "cells too small": (
        *("- entity: customer", "- max_rows_per_key: 100\n      bucket: 10ms\n      entity: customer"),
        *("features.stages.0.bucket", "must be at least 1s"),
    ),
    "extreme of merged rows": (
        *("mean, field: amount, window: 1d", "max, field: amount, window: {type: sliding, size: 30d, bucket: 1h}"),
        *("features.stages.0.features.4.window.bucket", "looks at rows one by one"),
    ),
    "cells of the stage and of a window": (
        "- entity: customer\n      features:",
        "- max_rows_per_key: 100\n      bucket: 1h\n      entity: customer\n      features:\n"
        "        - {name: x, aggregate: count, window: {type: sliding, size: 30d, bucket: 1h}}",
        *("features.stages.0.features.0.window.bucket", "the stage has max_rows_per_key"),
    ),
    "cell as wide as its window": (
        *("count, window: 30d}", "count, window: {type: sliding, size: 30d, bucket: 30d}}"),
        *("features.stages.0.features.7.window.bucket", "shorter than size"),
    ),
    "rows that an exact window reaches": (
        *("count, window: 7d}", "count, window: {type: sliding, size: 7d, bucket: 1h}}"),
        *("features.stages.0.features.5.window.bucket", "as far as 'customer_count_30d', which is exact, looks back"),
    ),
    "rows that labels reach": (
        "- entity: customer\n      features:",
        "- max_rows_per_key: 100\n      bucket: 26d\n      entity: customer\n      features:",
        *("features.stages.0.max_rows_per_key", "no row is ever merged: one settles 33d behind"),
    ),
    "rows that one extreme reaches": (
        "- entity: customer\n      features:",
        "- max_rows_per_key: 100\n      bucket: 1h\n      entity: customer\n      features:\n"
        "        - {name: x, aggregate: max, field: amount, window: 30d}",
        *("features.stages.0.max_rows_per_key", "as far as 'x', which is exact, looks back"),
    ),
    "one-hot of an unknown text": (
        *("calendar: night", "one_hot: channel, values: [web]", "features.stages.0.features.2.one_hot"),
        "unknown text 'channel'; the event's entities and categories are customer, terminal",
    ),
    "one-hot without values": (
        *("calendar: night", "one_hot: terminal, other: true", "features.stages.0.features.2"),
        "needs values",
    ),
    "one-hot with a value twice": (
        *("calendar: night", "one_hot: terminal, values: [a, b, a]", "features.stages.0.features.2.values.2"),
        "the value 'a' is named twice",
    ),
    "one-hot with two values of one column": (
        *("calendar: night", "one_hot: terminal, values: [In store, b, in-store]"),
        *("features.stages.0.features.2.values.2", "its column would be 'night_in_store', which another value has"),
    ),
    "one-hot with a value for which there is no name": (
        *("calendar: night", "one_hot: terminal, values: [a, '!?']", "features.stages.0.features.2.values.1"),
        "'!?' has no letter or digit",
    ),
    "one-hot with a value called other": (
        *("calendar: night", "one_hot: terminal, values: [Other], other: true", "features.stages.0.features.2.other"),
        "the column 'night_other' is that of a value already",
    ),
    "values of a calendar fact": (
        *("calendar: night", "calendar: night, values: [a]", "features.stages.0.features.2.values"),
        "values is for one_hot",
    ),
    "category twice": (
        *("  numbers:", "  categories: [channel, channel]\n  numbers:", "event.categories.1"),
        "'channel' is named twice",
    ),
    "category named as a record's field": (
        *("  numbers:", "  categories: [status]\n  numbers:", "event.categories.0"),
        "every record",
    ),
    "category that is an entity": (
        *("  numbers:", "  categories: [terminal]\n  numbers:", "event.categories.0"),
        "an entity, which features may read, already",
    ),
    "category that is a number": (
        *("  numbers:", "  categories: [amount]\n  numbers:", "event.categories.0"),
        "a number already",
    ),
    "category that no source gives": (
        *("  numbers:", "  categories: [channel]\n  numbers:", "ingest.sources.0.fields"),
        "where channel come from",
    ),
    "column of one feature named as another": (
        "- {name: weekend, calendar: weekend}\n        - {name: night, calendar: night}",
        "- {name: night_2, calendar: weekend}\n"
        "        - {name: night, aggregate: last, field: amount, k: 2, window: 1d}",
        *("features.stages.0.features.2.name", "'night_2' already"),
    ),
    "column with too long a name": (
        *("{name: night, calendar: night}", f"{{name: {'n' * 62}, aggregate: last, field: amount, k: 2, window: 1d}}"),
        *("features.stages.0.features.2.name", "longer than 63 characters"),
    ),
    "share of a number": (
        *("count, window: 1d}", "share, field: amount, equals: x, window: 1d}", "features.stages.0.features.3.field"),
        "unknown field 'amount'; the event's entities and categories are customer, terminal",
    ),
    "quantile without q": (
        *("count, window: 1d}", "quantile, field: amount, window: 1d}", "features.stages.0.features.3"),
        "needs q",
    ),
    "share without a value": (
        *("count, window: 1d}", "share, field: terminal, window: 1d}", "features.stages.0.features.3"),
        "needs equals",
    ),
    "k of a sum": (
        *("mean, field: amount,", "sum, k: 3, field: amount,", "features.stages.0.features.4.k"),
        "k is for the aggregate last, not for sum",
    ),
    "hop that does not divide the size": (
        *("count, window: 1d}", "count, window: {type: hopping, size: 1d, hop: 7h}}"),
        *("features.stages.0.features.3.window.hop", "hop (25200000 ms) must divide size (86400000 ms)"),
    ),
    "session shorter than its gap": (
        *("count, window: 1d}", "count, window: {type: session, gap: 1h, within: 30m}}"),
        *("features.stages.0.features.3.window.within", "shorter than gap"),
    ),
    "decay of an extreme": (
        *("mean, field: amount, window: 1d", "max, field: amount, window: {type: decay, half_life: 1d}"),
        *("features.stages.0.features.4.window", "a decaying window is for count, sum, mean, not for max"),
    ),
    "decay of more than is left": (
        *("count, window: 1d}", "count, window: {type: decay, half_life: 1s, within: 1d}}"),
        *("features.stages.0.features.3.window.within", "after 1,000 half-lives nothing is left"),
    ),
    "time since the event before in a window of the event only": (
        *("count, window: 1d}", "since_last, window: {type: count, last: 1, within: 1d}}"),
        *("features.stages.0.features.3.window.last", "is the event itself, of which since_last is always null"),
    ),
    "deviation of one row": (
        *(
            "mean, field: amount, window: 1d",
            "std, field: amount, delay: 1h, window: {type: count, last: 1, within: 1d}",
        ),
        *("features.stages.0.features.4.window.last", "is one row, of which std is always 0"),
    ),
    "more last values than the window holds": (
        *("mean, field: amount, window: 1d", "last, k: 4, field: amount, window: {type: count, last: 3, within: 1d}"),
        *("features.stages.0.features.4.k", "the window holds 3 at most"),
    ),
    "label rate of the last events": (
        *("label_rate, window: 1d", "label_rate, window: {type: count, last: 5, within: 1d}"),
        *("features.stages.1.features.1.window", "needs a window of time"),
    ),
    "time since the last event before a delay": (
        *("count, window: 1d, delay: 7d", "since_last, window: 1d, delay: 7d", "features.stages.1.features.0.delay"),
        "takes no delay",
    ),
    "filter on a plain field": (
        *("value: amount", "value: amount, where: amount > 3", "features.stages.0.features.0.where"),
        "where is for aggregates",
    ),
    "filter that cannot be read": (
        *("count, window: 1d}", "count, window: 1d, where: amount = 3}", "features.stages.0.features.3.where"),
        "cannot read '= 3' at column 8",
    ),
    "filter on an unknown field": (
        *("count, window: 1d}", "count, window: 1d, where: colour == 'red'}", "features.stages.0.features.3.where"),
        "unknown field 'colour' in a filter; the event has customer, terminal, amount",
    ),
    "filter of a text by a number": (
        *("count, window: 1d}", "count, window: 1d, where: terminal == 3}", "features.stages.0.features.3.where"),
        "'terminal' is a text",
    ),
    "filter of a number by a text": (
        *("count, window: 1d}", "count, window: 1d, where: amount == '3'}", "features.stages.0.features.3.where"),
        "'amount' is a number",
    ),
    "filter finer than the scale": (
        *("count, window: 1d}", "count, window: 1d, where: amount != 0.125}", "features.stages.0.features.3.where"),
        "kept in units of 1/100, so it never equals 0.125",
    ),
    "filter that nothing passes": (
        *("count, window: 1d}", "count, window: 1d, where: amount >= 100000.01}"),
        *("features.stages.0.features.3.where", "lies in 0 to 100000, so nothing passes amount >= 100000.01"),
    ),
    "maturity of nothing": ("maturity: 7d", "maturity: 0d", "outcomes.maturity", "above 0"),
    "unknown blocking decision": (
        *("missing_label:", "blocking_decisions: [block]\n  missing_label:", "outcomes.blocking_decisions.0"),
        "the pipeline decides review, approve",
    ),
    "buckets that do not ascend": ("[1, 8, 32, 128, 256]", "[1, 32, 8, 256]", "model.batching.buckets", "ascending"),
    "buckets below the largest batch": ("[1, 8, 32, 128, 256]", "[1, 8]", "model.batching.buckets", "fits no bucket"),
    "one decision for both": ("positive: review", "positive: approve", "decision.negative", "both 'approve'"),
    "fallback on an unknown field": ("field: amount, above", "field: sum, above", "decision.fallback.field", "'sum'"),
    "fallback that never changes": ("above: 220", "above: 100000", "decision.fallback.above", "the same for every"),
    "ignored feature that is none": ("[weekend, night]", "[weekend, noon]", "drift.ignore.1", "'noon'"),
    "statistics at no interval": (
        "sample_share:",
        "statistics_every: 0s\n  sample_share:",
        "drift.statistics_every",
        "0",
    ),
    "trigger twice": (
        *("cooldown: 4d", "cooldown: 4d\n  triggers: [drift, drift]", "retrain.triggers.1"),
        "named twice",
    ),
    "schedule trigger without a schedule": (
        *("cooldown: 4d", "cooldown: 4d\n  triggers: [schedule]", "retrain.triggers"),
        "needs retrain.schedule",
    ),
    "schedule without its trigger": ("cooldown: 4d", "cooldown: 4d\n  schedule: 7d", "retrain.schedule", "triggers"),
    "holdout of the whole window": ("holdout: 2d", "holdout: 7d", "retrain.gates.holdout", "below train_window"),
    "shadow of one day": ("matured: 5d", "matured: 1d", "retrain.shadow.matured", "at least 2d"),
    "two sources of a name": ("name: chargebacks", "name: card-payments", "ingest.sources.1.name", "second source"),
    "no source of labels": ("kind: label", "kind: event", "ingest.sources", "no source of kind label"),
    "two sources of a topic": ("fraud-raw-chargebacks", "fraud-raw-payments", "ingest.sources.1.topic", "already"),
    "source that nothing can reach": ("topic: fraud-raw-chargebacks", "http: false", "ingest.sources.1", "neither"),
    "source of no version": (
        "topic: fraud-raw-p",
        "versions: []\n      topic: fraud-raw-p",
        "ingest.sources.0.versions",
        "",
    ),
    "source without a field that is needed": (
        *("        known_at: {", "        # known_at: {", "ingest.sources.1.fields"),
        "where known_at come from",
    ),
    "source that gives v": (
        *("        amount: {", "        v: {from: v}\n        amount: {", "ingest.sources.0.fields.v"),
        "written by ingest",
    ),
    "wrong cast of a canonical field": (
        *("amount: {from: amount, cast: number, min: 0, max: 100000}", "amount: {cast: boolean}"),
        *("ingest.sources.0.fields.amount.cast", "integer or number"),
    ),
    "default for an id": (
        *("{from: payment_id, cast: string,", "{from: payment_id, cast: string, default: x,"),
        *("ingest.sources.0.fields.id.default", "cannot have a default"),
    ),
    "unit of no time": (
        "cast: number, min",
        "cast: number, unit: s, min",
        "ingest.sources.0.fields.amount.unit",
        "times",
    ),
    "multiply of text": (
        *("{from: card, cast: string,", "{from: card, cast: string, multiply: 2,"),
        *("ingest.sources.0.fields.customer.multiply", "numbers"),
    ),
    "source range upside down": (
        *("cast: number, min: 0, max: 100000", "cast: number, min: 1, max: 0", "ingest.sources.0.fields.amount"),
        "min 1 of amount is above max 0",
    ),
    "range of text": (
        *("{from: card, cast: string,", "{from: card, cast: string, min: 2,", "ingest.sources.0.fields.customer"),
        "are for numbers and times",
    ),
    "factor of nothing": (
        *("cast: number, min", "cast: number, multiply: 5.0e-324, min", "ingest.sources.0.fields.amount.multiply"),
        "no factor between units",
    ),
    "source range outside the number's": (
        *("cast: number, min: 0, max: 100000", "cast: number, min: 100001", "ingest.sources.0.fields.amount"),
        "no value of amount is right: numbers from 100001 to 100000 are left",
    ),
    "default outside the range": (
        *("cast: number, min", "cast: number, default: -1, min", "ingest.sources.0.fields.amount.default"),
        "the default -1 is outside 0 to 100000",
    ),
    "default that is no key": (
        *("terminal: {from: terminal,", 'terminal: {from: terminal, default: "",'),
        *("ingest.sources.0.fields.terminal.default", "an empty default is no key"),
    ),
    "clamp to nothing": (
        *("cast: number, min: 0, max: 100000", "cast: number, out_of_range: clamp"),
        *("ingest.sources.0.fields.amount.out_of_range", "needs min or max"),
    ),
    "default of another type": (
        *("cast: number, min", "cast: number, default: none, min", "ingest.sources.0.fields.amount.default"),
        "'none' is no number",
    ),
    "unknown schema": ("schema: fraud-event", "schema: shop-event", "event.schema", "there is no schema 'shop-event'"),
    "source on a topic of the pipeline": (
        *("fraud-raw-payments", "fraud-events", "ingest.sources.0.topic"),
        "'fraud-events' is the topic events, which ingest writes; a source needs one of its own",
    ),
    "source on a topic of a version to come": (
        *("fraud-raw-payments", "fraud-by-terminal-v2", "ingest.sources.0.topic"),
        "is the topic by-terminal-v2 of version 2 of the features",
    ),
    "field that the schema does not have": (
        *("        amount: {", "        colour: {from: colour}\n        amount: {", "ingest.sources.0.fields.colour"),
        "no field 'colour'",
    ),
}
RULES |= SUMMARY_RULES

_LIMIT_FEATURE = "aggregate: last, stream: limits, field: limit, window: 90d"
_CARD_LIMIT = "features.stages.0.features.9"
_LIMITS, _LOGINS = "ingest.sources.2", "ingest.sources.3"

# The same for the pipeline with second streams.
STREAM_RULES: dict[str, tuple[str, str, str, str]] = {
    "unknown stream": ("last, stream: limits", "last, stream: quotas", f"{_CARD_LIMIT}.stream", "limits, logins"),
    "unknown field of a stream": (
        *(_LIMIT_FEATURE, "aggregate: last, stream: limits, field: amount, window: 90d", f"{_CARD_LIMIT}.field"),
        "unknown field 'amount'; streams.limits.numbers has limit",
    ),
    "text of a stream that it does not carry": (
        *("field: customer, window: 1h", "field: channel, window: 1h", "features.stages.1.features.1.field"),
        "streams.logins.entities has customer, terminal",
    ),
    "share of a stream": (
        *("count, stream: logins", "share, equals: x, field: customer, stream: logins"),
        *("features.stages.0.features.11.aggregate", "share is of events; it cannot be taken of the stream 'logins'"),
    ),
    "ratio to the mean of a stream": (
        *("last, stream: limits", "ratio_to_mean, stream: limits", f"{_CARD_LIMIT}.aggregate", "is of events"),
    ),
    "filter on a field that the stream does not have": (
        *("field: limit, window: 90d", "field: limit, where: amount > 3, window: 90d", f"{_CARD_LIMIT}.where"),
        "unknown field 'amount' in a filter; the stream 'limits' has customer, limit",
    ),
    "stream of a feature that aggregates nothing": (
        *("value: amount}", "value: amount, stream: limits}", "features.stages.0.features.0.stream"),
        "stream is for aggregates",
    ),
    "interval that ends behind the event": (
        *("field: limit, window: 90d", "field: limit, delay: -1h, window: 90d", f"{_CARD_LIMIT}.delay"),
        "would end 3600000 ms after its event",
    ),
    "stream without the entity of the stage that joins it": (
        *("terminal_logins_1h, aggregate: count, stream: logins", "tl, aggregate: count, stream: limits"),
        *("features.stages.1.features.0.stream", "'limits' do not carry terminal"),
    ),
    "stream named as a topic's role": ("  logins:\n", "  labels:\n", "streams.labels", "the role of another topic"),
    "two streams of one topic": (
        *("  logins:\n", "  lim-its: {entities: [customer]}\n  lim_its: {entities: [customer]}\n  logins:\n"),
        *("streams.lim_its", "the topic fraud-stream-lim-its would be both stream-lim_its and stream-lim-its"),
    ),
    "stream with an unknown entity": (
        *("entities: [customer, terminal]\n\n", "entities: [customer, shop]\n\n", "streams.logins.entities.1"),
        "unknown entity 'shop'; the event has customer, terminal",
    ),
    "stream with an entity twice": (
        *("entities: [customer, terminal]\n\n", "entities: [customer, customer]\n\n", "streams.logins.entities.1"),
        "named twice",
    ),
    "rows merged beside those of a stream": (
        *("- entity: customer\n", "- entity: customer\n      max_rows_per_key: 64\n      bucket: 1h\n"),
        *("features.stages.0.bucket", "the stage of 'customer' joins limits, logins, whose records may come late"),
    ),
    "stream without the key of the events": (
        *("entities: [customer, terminal]\n\n", "entities: [terminal]\n\n", "streams.logins.entities"),
        "must carry 'customer'",
    ),
    "stream's number named as a record's field": (
        *("limit: {scale", "fs: {scale", "streams.limits.numbers.fs", "a field of every record"),
    ),
    "stream's number that is an entity": (
        *("limit: {scale", "terminal: {scale", "streams.limits.numbers.terminal", "an entity already"),
    ),
    "stream's number with min above max": (
        *("min: 0, max: 100000}\n    max_lead", "min: 2, max: 1}\n    max_lead"),
        *("streams.limits.numbers.limit", "min 2 is above max 1"),
    ),
    "stream without a source": ("  logins:\n", "  clicks:\n", "streams.clicks", "no source of kind stream"),
    "entity named as the mark of a stream": (
        *("[customer, terminal]\n  numbers", "[customer, terminal, stream]\n  numbers", "event.entities.2"),
        "marks the records of second streams",
    ),
    "number named as the mark of a stream": (
        *("    amount: {scale", "    stream: {scale", "event.numbers.stream", "marks the records of second streams"),
    ),
    "label named as the mark of a stream": ("field: fraud", "field: stream", "label.field", "marks the records"),
    "source's field named as the mark of a stream": (
        *(
            "        amount: {from",
            "        stream: {from: s}\n        amount: {from",
            "ingest.sources.0.fields.stream",
        ),
        "marks the records of second streams",
    ),
    "source of an unknown stream": ("stream: limits\n", "stream: quotas\n", f"{_LIMITS}.stream", "has limits, logins"),
    "source of no stream": ("      stream: limits\n", "", _LIMITS, "does not say of which stream"),
    "stream of an event source": (
        *("kind: event\n", "kind: event\n      stream: limits\n", "ingest.sources.0.stream", "for sources of kind"),
    ),
    "source without a stream's number": (
        *("        limit: {from: limit, cast: number}\n", "", f"{_LIMITS}.fields", "where limit come from"),
    ),
    "source with a field that the stream does not have": (
        *(
            "        limit: {from",
            "        currency: {cast: string}\n        limit: {from",
            f"{_LIMITS}.fields.currency",
        ),
        "the stream 'limits' has no field 'currency'; it has id, event_time, customer, limit",
    ),
    "source that casts a stream's number to text": (
        *("limit, cast: number", "limit, cast: string", f"{_LIMITS}.fields.limit.cast", "integer or number"),
    ),
}


def broken(rule: str) -> tuple[str, str, str]:
    """The file that breaks it, the path of the mistake, and part of what is said."""
    old, new, path, said = RULES.get(rule) or STREAM_RULES[rule]
    return changed(old, new, SHIPPED if rule in RULES else JOINED_TEXT), path, said


def changed(old: str, new: str, text: str = SHIPPED) -> str:
    assert old in text, old
    return text.replace(old, new, 1)


@pytest.mark.parametrize("rule", [*RULES, *STREAM_RULES])
def test_a_broken_rule_is_reported_at_its_place(rule: str) -> None:
    text, path, said = broken(rule)
    found = [problem for problem in problems(text) if problem.path == path and said in problem.message]
    assert len(found) == 1, problems(text)
    line = text.splitlines()[found[0].line - 1]
    last = [part for part in path.split(".") if not part.isdecimal()][-1]
    assert last in line or path.split(".")[-1].isdecimal(), f"{path} is shown at {line!r}"


def test_every_rule_in_the_code_has_a_file_that_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: set[tuple[str, int]] = set()

    def record(module: ModuleType) -> Callable[..., pipelinerules.Mistake]:
        mistake = pipelinerules.Mistake

        def make(path: Any, message: str) -> pipelinerules.Mistake:
            raised.add((module.__name__, sys._getframe(1).f_lineno))
            return mistake(path, message)

        return make

    written = set()
    for module in RULE_MODULES:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Mistake":
                written.add((module.__name__, node.lineno))
        monkeypatch.setattr(module, "Mistake", record(module))
    for rule in (*RULES, *STREAM_RULES):
        problems(broken(rule)[0])
    assert written - raised == set()


def test_a_stream_named_twice_is_reported_at_the_second() -> None:
    text = changed("  logins:\n", "  limits:\n", JOINED_TEXT)
    (found,) = [problem for problem in problems(text) if "duplicate key 'limits'" in problem.message]
    first, second = [number for number, line in enumerate(text.splitlines(), 1) if line == "  limits:"]
    assert (found.line, f"line {first}" in found.message) == (second, True)


def test_the_shipped_pipeline_has_no_mistake() -> None:
    assert problems(SHIPPED) == []
    assert load_pipeline("fraud").name == "fraud"


# What is replaced, by what; the text that begins where the mistake is shown, its path, and part of what is said.
STRUCTURE: dict[str, tuple[str, str, str, str, str]] = {
    "unknown key": ("scale: 100", "scal: 100", "scal:", "event.numbers.amount", "did you mean 'scale'?"),
    "unknown key like no other": ("scale: 100", "zzz: 1", "zzz:", "event.numbers.amount", "known here: scale, min"),
    "missing key": ("name: fraud\n", "", "# Card", "", "name is missing"),
    "missing key of a section": ("  schema: fraud-label\n", "", "label:", "label", "schema is missing"),
    "wrong type": ("partitions: 4", "partitions: four", "four", "topics.partitions", "must be an integer, not four"),
    "a truth in place of a number": ("partitions: 4", "partitions: []", "partitions:", "topics.partitions", "integer"),
    "bad duration": ("cooldown: 4d", "cooldown: 4 days", "4 days", "retrain.cooldown", "'4 days' is not a duration"),
    "negative duration": ("cooldown: 4d", "cooldown: -4", "-4", "retrain.cooldown", "greater than or equal to 0"),
    "out of bounds": ("threshold: 0.5", "threshold: 5", "5", "decision.threshold", "less than or equal to 1, not 5"),
    "not finite": ("threshold: 0.5", "threshold: .nan", ".nan", "decision.threshold", "finite"),
    "unknown choice": ("kind: label", "kind: lable", "lable", "ingest.sources.1.kind", "did you mean 'label'?"),
    "bad name": ("name: fraud\n", "name: Fraud\n", "Fraud", "name", "pattern"),
    "bad field name": ("amount: {scale", "Amount: {scale", "Amount:", "event.numbers", "'Amount' is not a name"),
    "bad trainer": ("trainer:FraudTrainer", "trainer", "tidemill.", "model.trainer", "pattern"),
    "missing key in one line": ("{field: amount, ab", "{ab", "fallback:", "decision.fallback", "field is missing"),
    "a mapping in place of a list": ("[customer, terminal]", "{a: b}", "entities:", "event.entities", "must be a list"),
    "text in place of a mapping": ("batching: {", "batching: x # {", "x #", "model.batching", "must be a mapping"),
    "unknown window": (
        "window: 1d}",
        "window: {type: rolling}}",
        "window:",
        "features.stages.0.features.3.window",
        "one of",
    ),
    "window without a type": (
        "window: 1d}",
        "window: {size: 1d}}",
        "window:",
        "features.stages.0.features.3.window",
        "type",
    ),
    "window of no length": (
        *("window: 1d}", "window: {type: tumbling, size: 0}}", "0}}", "features.stages.0.features.3.window.size"),
        "greater than 0",
    ),
    "window without its size": (
        *("window: 1d}", "window: {type: hopping, hop: 1h}}", "window:", "features.stages.0.features.3.window"),
        "size is missing",
    ),
    "misspelt key of a window": (
        *("window: 1d}", "window: {type: decay, half_live: 1h, half_life: 1h}}", "half_live"),
        *("features.stages.0.features.3.window", "did you mean 'half_life'?"),
    ),
    "window that is no duration": (
        "window: 1d}",
        "window: 1 d x}",
        "1 d x",
        "features.stages.0.features.3.window",
        "not a dur",
    ),
    "unknown aggregate": ("mean, field", "median, field", "median", "features.stages.0.features.4.aggregate", "one of"),
    "too many last values": (
        *("count, window: 1d}", "last, field: amount, window: 1d, k: 65}", "65", "features.stages.0.features.3.k"),
        "less than or equal to 64",
    ),
    "quantile above one": (
        *("count, window: 1d}", "quantile, field: amount, window: 1d, q: 50}", "50", "features.stages.0.features.3.q"),
        "less than or equal to 1",
    ),
    "version of another time": ("version: 1\n", "version: 2\n", "2\n", "version", "must be 1, not 2"),
}


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_malformed_part_is_reported_at_its_line_and_column(kind: str) -> None:
    old, new, shown, path, said = STRUCTURE[kind]
    text = changed(old, new)
    found = problems(text)
    assert [problem.path for problem in found] == [path], found
    assert said in found[0].message
    assert text.splitlines(keepends=True)[found[0].line - 1][found[0].column - 1 :].startswith(shown)


def test_a_duplicate_key_is_reported_with_the_line_of_the_first() -> None:
    found = problems(changed("name: fraud\n", "name: fraud\nname: other\n"))
    assert found == [Problem(4, 1, "", "duplicate key 'name'; the first is on line 3")]


def test_text_that_is_not_yaml_is_reported_where_it_stops_being_yaml() -> None:
    found = problems("version: 1\nname: [fraud\nevent: {}\n")
    assert len(found) == 1
    assert found[0].line == 3
    assert found[0].message.startswith("not YAML")


@pytest.mark.parametrize(("text", "said"), [("", "is empty"), ("- 1\n", "not a mapping"), ("# only\n", "is empty")])
def test_a_file_without_a_mapping_is_refused(text: str, said: str) -> None:
    found = problems(text)
    assert [(problem.line, problem.column) for problem in found] == [(1, 1)]
    assert said in found[0].message


def test_all_mistakes_are_listed_at_once_in_the_order_of_the_file() -> None:
    text = changed("scale: 100", "scal: 100").replace("threshold: 0.5", "threshold: 5").replace("night]", "noon]")
    text = text.replace("buckets: [1, 8, 32, 128, 256]", "buckets: [8, 1]").replace("cooldown: 4d", "cooldown: soon")
    assert [problem.path for problem in problems(text)] == [
        *("event.numbers.amount", "model.batching.buckets", "decision.threshold", "drift.ignore.1", "retrain.cooldown"),
    ]


def test_a_recursive_alias_is_refused_without_hanging() -> None:
    found = problems("version: &all\n  a: *all\n")
    assert found == [Problem(2, 3, "", "an alias stands inside the very part that it repeats")]


def test_loading_raises_with_every_mistake_and_its_place() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_pipeline(changed("scale: 100", "scal: 100").replace("threshold: 0.5", "threshold: 5"), "shop.yaml")
    assert caught.value.exit_code == 2
    first, second, third = caught.value.message.splitlines()
    assert first == "shop.yaml has 2 mistakes:"
    assert second.startswith("  shop.yaml:11:14: event.numbers.amount: unknown key 'scal'")
    assert third.endswith("decision.threshold: must be less than or equal to 1, not 5")


def test_a_pipeline_is_loaded_from_a_path(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHIPPED, encoding="utf-8")
    assert load_pipeline(str(file)) == load_pipeline("fraud")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no pipeline called 'shop'") as caught:
        load_pipeline("shop")
    assert "fraud" in caught.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_pipeline(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigurationError, match="byte 6 is not UTF-8"):
        load_pipeline(str(tmp_path / "binary.yaml"))


def test_reading_a_shipped_pipeline_imports_none_of_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tidemill.scenarios.fraud.trainer", raising=False)
    load_pipeline("fraud")
    assert not [name for name in sys.modules if name == "tidemill.scenarios.fraud.trainer"]


def test_the_editors_schema_accepts_the_shipped_file_and_refuses_every_malformed_one() -> None:
    checker = jsonschema_rs.validator_for(pipeline_schema(), offline=True)

    def accepts(text: str) -> bool:
        return checker.is_valid(YAML(typ="safe", pure=True).load(text))

    assert accepts(SHIPPED)
    assert [kind for kind, (old, new, *_) in STRUCTURE.items() if accepts(changed(old, new))] == []


@pytest.mark.parametrize(
    ("condition", "passes"),
    [
        ("amount > 100000", False),
        ("amount > 99999.99", True),
        ("amount >= 100000", True),
        ("amount < 0", False),
        ("amount <= 0", True),
        ("amount <= -0.01", False),
        ("amount == 100000.01", False),
        ("amount == 100000", True),
        ("amount != 100000.01", True),
        (f"amount < {'9' * 500}", True),
        (f"amount > {'9' * 500}", False),
    ],
)
def test_a_filter_is_refused_if_no_value_within_the_bounds_passes(condition: str, passes: bool) -> None:
    text = changed("count, window: 1d}", f"count, window: 1d, where: {condition}}}")
    assert [problem.path for problem in problems(text)] == ([] if passes else ["features.stages.0.features.3.where"])


@pytest.mark.parametrize(
    ("what", "refused"),
    [
        ("aggregate: since_last", True),
        ("aggregate: since_last, where: amount > 3", True),
        ("aggregate: ratio_to_mean, field: amount", True),
        ("aggregate: ratio_to_mean, field: amount, delay: 1m", False),
        ("aggregate: std, field: amount, delay: 1m", True),
        ("aggregate: std, field: amount, where: amount > 3", True),
        ("aggregate: count", True),
        ("aggregate: count, where: amount > 3", False),
        ("aggregate: count, delay: 1m", False),
        ("aggregate: distinct, field: terminal", True),
        ("aggregate: distinct, field: terminal, where: amount > 3", False),
        ("aggregate: mean, field: amount", False),
        ("aggregate: share, field: terminal, equals: t1", False),
        ("aggregate: last, field: amount, k: 1", False),
    ],
)
def test_of_the_last_event_only_what_may_differ_is_allowed(what: str, refused: bool) -> None:
    for last in (1, 2):
        text = changed("calendar: night", f"{what}, window: {{type: count, last: {last}, within: 1d}}")
        expected = ["features.stages.0.features.2.window.last"] if refused and last == 1 else []
        assert [problem.path for problem in problems(text)] == expected


def test_the_last_record_of_a_stream_is_not_the_event() -> None:
    window = "window: {type: count, last: 1, within: 1h}"
    for aggregate in ("since_last", "count", "distinct, field: customer"):
        text = changed("count, stream: logins, window: 1h", f"{aggregate}, stream: logins, {window}", JOINED_TEXT)
        assert problems(text) == []
    text = changed(_LIMIT_FEATURE, f"aggregate: std, stream: limits, field: limit, {window}", JOINED_TEXT)
    assert [problem.path for problem in problems(text)] == [f"{_CARD_LIMIT}.window.last"]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("cast: integer, min: 0, max: 1}", "cast: integer, min: 0.2, max: 0.8}", "1.fields.fraud"),
        ("cast: integer, min: 0, max: 1}", "cast: integer, min: 0.2, max: 1}", ""),
        ("cast: integer, min: 0, max: 1}", "cast: integer, min: 1.0e+19}", "1.fields.fraud"),
        ("cast: number, min: 0, max: 100000}", "cast: number, max: -0.01}", "0.fields.amount"),
        ("cast: number, min: 0, max: 100000}", "cast: number, default: 0.5, min: 0.5, max: 0.5}", ""),
        ("cast: number, min: 0, max: 100000}", "cast: number, default: 7, max: 1, out_of_range: clamp}", ""),
        ("cast: number, min: 0, max: 100000}", "cast: number, default: 7, max: 1}", "0.fields.amount.default"),
        ("cast: number, min: 0, max: 100000}", "cast: number, default: 100000.5}", "0.fields.amount.default"),
        ("cast: number, min: 0, max: 100000}", "cast: number, multiply: -0.01}", ""),
        ("cast: number, min: 0, max: 100000}", "cast: number, multiply: 0}", "0.fields.amount.multiply"),
        ("cast: timestamp, unit: ms}", "cast: timestamp, unit: ms, max: -1}", "0.fields.event_time"),
    ],
)
def test_ranges_and_defaults_of_sources_leave_a_value(old: str, new: str, place: str) -> None:
    found = [problem.path for problem in problems(changed(old, new))]
    assert found == ([f"ingest.sources.{place}"] if place else [])
