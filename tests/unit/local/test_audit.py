"""What the audit times and counts, whatever order its readers bring records in."""

from typing import Any

import orjson
import pytest

from tidemill.domain.featureset import feature_set_hash
from tidemill.local.audit import Audit
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

FRAUD = load_pipeline("fraud")


@pytest.fixture
def audit() -> Audit:
    return Audit(FRAUD, latency_sample=1)


def raw(name: str, sent_ms: float) -> Record:
    value = orjson.dumps({"payment_id": name})
    return Record("fraud-raw-payments", 0, int(name[1:]), 0, b"c", value, (("sent-ms", b"%.3f" % sent_ms),))


def prediction(name: str) -> Record:
    document: dict[str, Any] = {
        "id": name, "event_time": 1, "fs": feature_set_hash(FRAUD), "features": [0.0] * len(FRAUD.feature_names),
        "status": "no_model", "model": None, "model_version": None, "outputs": {"score": 0.0}, "provider": "rule",
    }  # fmt: skip
    return Record("fraud-predictions", 0, int(name[1:]), 0, b"c", orjson.dumps(document))


def test_a_latency_is_that_of_the_prediction_whichever_is_read_first(audit: Audit) -> None:
    audit.read([raw("p1", 100.0)], 900)
    audit.read([prediction("p1")], 150)
    audit.read([prediction("p2")], 260)
    audit.read([raw("p2", 200.0)], 900)
    assert audit.latency() == {"p50": 60.0, "p99": 60.0, "samples": 2, "unanswered": 0}
    assert audit.report()["missing"] == 0


def test_only_what_was_sent_within_the_window_is_timed_and_slow_ones_are_not_forgotten(audit: Audit) -> None:
    audit.read([raw("p1", 90.0)], 90)
    audit.reset(100)
    audit.read([prediction("p1"), raw("p2", 110.0), raw("p3", 120.0)], 130)
    audit.close_window(200)
    audit.read([raw("p4", 210.0)], 215)
    assert audit.latency() == {"p50": None, "p99": None, "samples": 0, "unanswered": 2}
    audit.read([prediction("p4"), prediction("p2")], 5_110)
    assert audit.latency() == {"p50": 5_000.0, "p99": 5_000.0, "samples": 1, "unanswered": 1}
