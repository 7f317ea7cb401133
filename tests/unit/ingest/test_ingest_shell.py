"""The ingest service, driven as the loop drives it."""

import orjson

from tidemill.ingest.shell import IngestService
from tidemill.runtime.service import OutRecord, Record
from unit.ingest.samples import CHARGEBACK, EVENT_BYTES, LABEL_BYTES, NOW_MS, PAYMENT, intake_of

PAYMENTS, CHARGEBACKS = "fraud-raw-payments", "fraud-raw-chargebacks"


def service() -> IngestService:
    return IngestService({PAYMENTS: intake_of(), CHARGEBACKS: intake_of("chargebacks")}, lambda: NOW_MS)


def record(topic: str, partition: int, offset: int, value: bytes | None) -> Record:
    return Record(topic, partition, offset, 5, b"their key", value, (("h", b"1"),))


def test_every_record_becomes_an_output_or_a_dead_letter_in_order() -> None:
    ingest = service()
    payment, chargeback = orjson.dumps(PAYMENT), orjson.dumps(CHARGEBACK)
    bad = record(PAYMENTS, 1, 8, b'{"v":1,"payment_id":"p","amount":NaN}')
    tombstone = record(CHARGEBACKS, 0, 3, None)
    ingest.add([record(PAYMENTS, 1, 7, payment), bad], 0.0)
    ingest.add([record(CHARGEBACKS, 0, 2, chargeback), tombstone], 0.0)
    output = ingest.flush(0.0)
    assert output.records == [
        OutRecord("fraud-events", b"c-00042", EVENT_BYTES, 1522540831000),
        OutRecord("fraud-labels", b"c-00042", LABEL_BYTES, 1522590000000),
    ]
    assert [(dead.record, dead.code) for dead in output.dead] == [(bad, "non_finite"), (tombstone, "not_json")]
    assert output.state == []


def test_a_flush_leaves_nothing_for_the_next() -> None:
    ingest = service()
    assert ingest.wake_at() is None
    ingest.add([record(PAYMENTS, 0, 0, orjson.dumps(PAYMENT))], 3.0)
    assert ingest.wake_at() == 3.0
    assert len(ingest.flush(4.0).records) == 1
    again = ingest.flush(0.0)
    assert (again.records, again.dead) == ([], [])
    assert ingest.wake_at() is None


def test_dropped_partitions_take_their_records_with_them() -> None:
    ingest = service()
    ingest.add([record(PAYMENTS, partition, 0, orjson.dumps(PAYMENT)) for partition in (0, 1, 2)], 0.0)
    ingest.drop([0, 2])
    assert len(ingest.flush(0.0).records) == 1
    ingest.add([record(PAYMENTS, 1, 0, orjson.dumps(PAYMENT))], 0.0)
    ingest.drop([1])
    assert ingest.wake_at() is None
