"""What ingest says of the stream's records is what the manifest expects."""

from collections import Counter
from itertools import chain

from tidemill.errors import RecordError
from tidemill.ingest.core.intake import Intake
from tidemill.ingest.core.validation import CanonicalSchema
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.scenarios.fraud.simulator import simulate
from tidemill.scenarios.fraud.stream import CHARGEBACKS, PAYMENTS, PaymentStream, StreamSettings
from tidemill_schemas import load_schema

PIPELINE = load_pipeline("fraud")
NOW_MS = 1_780_000_000_000


def intake(kind: str, schema_name: str) -> Intake:
    source = next(source for source in PIPELINE.ingest.sources if source.kind == kind)
    return Intake(PIPELINE, source, CanonicalSchema(schema_name, load_schema(schema_name)))


def test_ingest_refuses_each_bad_record_for_its_own_reason_and_accepts_all_others() -> None:
    intakes = {
        PAYMENTS: intake("event", PIPELINE.event.schema_name),
        CHARGEBACKS: intake("label", PIPELINE.label.schema_name),
    }
    settings = StreamSettings(0, 0, 10, seed=5, bad_share=0.1)
    stream = PaymentStream(simulate(10, customers=400, terminals=1_500, seed=5), settings)
    found: Counter[str] = Counter()
    for record in chain.from_iterable(stream.batches(3_600_000)):
        try:
            accepted = intakes[record.role].take(record.value, NOW_MS)
        except RecordError as refusal:
            found[refusal.code] += 1
        else:
            assert accepted.key == record.key
            found[record.role] += 1
    manifest = stream.manifest()
    expected = dict(manifest.dead_letters)
    # Ingest judges one record at a time: whether it is late or a duplicate is for the first keyed stage to say.
    accepted_bad = expected.pop("late") + manifest.duplicates
    assert found == {PAYMENTS: manifest.payments + accepted_bad, CHARGEBACKS: manifest.chargebacks, **expected}
    assert min(expected.values()) > 0
