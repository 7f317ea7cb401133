"""The raw stream: in order, complete, and with exactly the bad records that its manifest names."""

import json
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest

from tidemill.domain.durations import DAY_MS
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.scenarios.fraud.badrecords import BAD_KINDS
from tidemill.scenarios.fraud.simulator import EPOCH_MS, Transactions, label_delays_ms, simulate
from tidemill.scenarios.fraud.stream import CHARGEBACKS, PAYMENTS, Manifest, PaymentStream, StreamSettings, WireRecord

DAYS, LATENESS_MS = 12, 3_600_000


@pytest.fixture(scope="module")
def transactions() -> Transactions:
    return simulate(DAYS, customers=400, terminals=1_500, seed=2)


def settings(**changes: Any) -> StreamSettings:
    return StreamSettings(
        **{"first_day": 0, "from_ms": EPOCH_MS, "until_day": DAYS, "seed": 2, "bad_share": 0.05, **changes}
    )


def records(transactions: Transactions, **changes: Any) -> list[WireRecord]:
    return list(chain.from_iterable(PaymentStream(transactions, settings(**changes)).batches(3_600_000)))


def document(record: WireRecord) -> dict[str, Any] | None:
    """The record as a tolerant JSON parser sees it."""
    try:
        parsed: dict[str, Any] = json.loads(record.value)
    except json.JSONDecodeError:
        return None
    return parsed


def is_valid_payment(record: WireRecord) -> bool:
    parsed = document(record) if record.role == PAYMENTS else None
    return parsed is not None and parsed.get("payment_id", "").startswith("p-") and parsed["v"] == 1


def test_without_bad_records_every_payment_is_on_the_wire_once_in_order(transactions: Transactions) -> None:
    stream = [record for record in records(transactions, bad_share=0.0) if record.role == PAYMENTS]
    parsed = [json.loads(record.value) for record in stream]
    assert [payment["payment_id"] for payment in parsed] == [f"p-{n:09d}" for n in range(len(transactions.second))]
    assert [payment["paid_at_ms"] for payment in parsed] == transactions.paid_at_ms.tolist()
    assert [round(payment["amount"] * 100) for payment in parsed] == transactions.cents.tolist()
    assert [payment["card"] for payment in parsed] == [f"c-{n:05d}" for n in transactions.customer.tolist()]
    assert [payment["terminal"] for payment in parsed] == [f"t-{n:05d}" for n in transactions.terminal.tolist()]
    assert all(record.timestamp == payment["paid_at_ms"] for record, payment in zip(stream, parsed, strict=True))
    assert all(record.key == payment["card"].encode() for record, payment in zip(stream, parsed, strict=True))


def test_a_chargeback_tells_the_truth_when_it_becomes_known(transactions: Transactions) -> None:
    known_at = transactions.paid_at_ms + label_delays_ms(len(transactions.second), seed=2)
    stream = [record for record in records(transactions) if record.role == CHARGEBACKS]
    assert len(stream) == (known_at < EPOCH_MS + DAYS * DAY_MS).sum() > 0
    for record in stream:
        chargeback = json.loads(record.value)
        row = int(chargeback["payment_id"][2:])
        assert record.timestamp == chargeback["known_at_ms"] == known_at[row]
        assert chargeback["fraud"] == transactions.fraud[row]
        assert chargeback["paid_at_ms"] == transactions.paid_at_ms[row]


def test_records_come_in_order_of_stream_time(transactions: Transactions) -> None:
    times = [record.timestamp for record in records(transactions)]
    assert times == sorted(times)


def test_bad_records_are_added_and_replace_nothing(transactions: Transactions) -> None:
    clean, mixed = records(transactions, bad_share=0.0), records(transactions)
    remaining = Counter(mixed)
    remaining.subtract(clean)
    assert min(remaining.values()) >= 0
    assert remaining.total() == sum(PaymentStream(transactions, settings()).manifest().bad.values())


def test_the_manifest_counts_what_an_independent_reader_finds(transactions: Transactions) -> None:
    manifest = PaymentStream(transactions, settings()).manifest()
    limit = settings().max_record_bytes
    found: Counter[str] = Counter()
    seen: set[bytes] = set()
    newest: dict[bytes, int] = {}
    for record in records(transactions):
        if record.role == CHARGEBACKS:
            found["chargebacks"] += 1
            continue
        found[classify(record, limit, seen, newest)] += 1
    assert min(manifest.bad.values()) > 0
    assert found == {"payments": manifest.payments, "chargebacks": manifest.chargebacks, **manifest.bad}


def classify(record: WireRecord, limit: int, seen: set[bytes], newest: dict[bytes, int]) -> str:
    """What a strict consumer would say of a payment record, told from its content alone."""
    if len(record.value) > limit:
        return "oversize"
    constants: list[str] = []
    try:
        payment = json.loads(record.value, parse_constant=constants.append)
    except json.JSONDecodeError:
        return "broken_json"
    if constants or payment["amount"] == float("inf"):
        return "non_finite"
    if payment["v"] != 1:
        return "unknown_version"
    if "payment_id" not in payment:
        return "missing_id"
    if not isinstance(payment["amount"], float):
        return "wrong_type"
    if payment["amount"] < 0:
        return "out_of_range"
    if len(payment["terminal"]) > 200:
        return "schema_violation"
    if payment["paid_at_ms"] > record.timestamp + DAY_MS:
        return "future"
    if record.value in seen:
        return "duplicate"
    seen.add(record.value)
    if payment["paid_at_ms"] < newest.get(record.key, 0) - LATENESS_MS:
        return "late"
    newest[record.key] = payment["paid_at_ms"]
    return "payments"


def test_the_share_of_bad_records_is_the_one_asked_for(transactions: Transactions) -> None:
    manifest = PaymentStream(transactions, settings(bad_share=0.2)).manifest()
    assert 0.17 < sum(manifest.bad.values()) / manifest.payments < 0.23
    assert PaymentStream(transactions, settings(bad_share=0.0)).manifest().dead_letters.keys() == {
        kind.code for kind in BAD_KINDS if kind.code
    }


def test_bad_records_have_ids_that_no_payment_has(transactions: Transactions) -> None:
    stream = records(transactions)
    valid = Counter(record.value for record in stream if is_valid_payment(record))
    repeated = sum(count - 1 for count in valid.values())
    assert repeated == PaymentStream(transactions, settings()).manifest().duplicates > 0


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_stream_cut_in_two_equals_the_whole(transactions: Transactions, cut: int) -> None:
    earlier = PaymentStream(transactions.first_days(cut), settings(until_day=cut))
    later = PaymentStream(transactions, settings(from_ms=EPOCH_MS + cut * DAY_MS))
    assert earlier.encode(0, len(earlier)) + later.encode(0, len(later)) == records(transactions)
    assert earlier.manifest() + later.manifest() == PaymentStream(transactions, settings()).manifest()


def test_a_stream_that_begins_later_has_no_truth_about_earlier_payments(transactions: Transactions) -> None:
    stream = records(transactions, first_day=4, from_ms=EPOCH_MS + 4 * DAY_MS)
    ids = {json.loads(record.value)["payment_id"] for record in stream if is_valid_payment(record)}
    assert {json.loads(record.value)["payment_id"] for record in stream if record.role == CHARGEBACKS} <= ids
    assert stream[0].timestamp >= EPOCH_MS + 4 * DAY_MS


def test_the_manifest_of_a_beginning_counts_that_beginning(transactions: Transactions) -> None:
    stream = PaymentStream(transactions, settings())
    half = len(stream) // 2
    sent = Counter(record.role for record in stream.encode(0, half))
    manifest = stream.manifest(half)
    assert manifest.chargebacks == sent[CHARGEBACKS]
    assert manifest.payments + sum(manifest.bad.values()) == sent[PAYMENTS]


def test_payments_before_each_record_count_the_valid_ones(transactions: Transactions) -> None:
    stream = PaymentStream(transactions, settings())
    before = stream.payments_before()
    assert before[0] == 0 and (np.diff(before) >= 0).all()
    assert before[-1] == stream.manifest(len(stream) - 1).payments


def test_the_shipped_pipeline_allows_less_lateness_than_late_records_have() -> None:
    pipeline = load_pipeline("fraud")
    assert pipeline.features.allowed_lateness <= StreamSettings(0, 0, 1).allowed_lateness_ms
    assert pipeline.ingest.max_record_bytes <= StreamSettings(0, 0, 1).max_record_bytes


def test_an_empty_world_streams_nothing() -> None:
    stream = PaymentStream(simulate(2, customers=1, terminals=2), settings(until_day=2))
    assert len(stream) == 0 and list(stream.batches(DAY_MS)) == []
    assert stream.manifest() == Manifest(0, 0, {kind.name: 0 for kind in BAD_KINDS})
