"""The pipeline file's features as the kernels see them."""

from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.features.core.definition import compile_stage
from tidemill.runtime.pipelinefile import load_pipeline

FRAUD = load_pipeline("fraud")
HOUR_MS = 3_600_000


def test_windows_share_their_edges() -> None:
    customer, terminal = compile_stage(FRAUD, 0), compile_stage(FRAUD, 1)
    assert customer.tables.edges[:, 0].tolist() == [0, DAY_MS, 7 * DAY_MS, 30 * DAY_MS]
    assert terminal.tables.edges[:, 0].tolist() == [7 * DAY_MS, 8 * DAY_MS, 14 * DAY_MS, 37 * DAY_MS]
    assert customer.numbers == ("amount",)
    assert terminal.numbers == ()


def test_rows_stay_for_the_longest_look_back_and_lateness() -> None:
    assert compile_stage(FRAUD, 0).retention == 30 * DAY_MS + HOUR_MS


def test_a_later_stage_takes_events_as_old_as_their_labels_may_be() -> None:
    terminal = compile_stage(FRAUD, 1)
    assert terminal.lateness == 7 * DAY_MS
    assert terminal.retention == 44 * DAY_MS


def test_rows_stay_at_least_until_their_label_may_come() -> None:
    stage = FRAUD.features.stages[0]
    short = stage.model_copy(update={"features": tuple(f for f in stage.features if f.window in (None, DAY_MS))})
    pipeline = FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"stages": (short,)})})
    assert compile_stage(pipeline, 0).retention == 7 * DAY_MS + HOUR_MS


def test_the_feature_set_is_named_by_what_decides_its_values() -> None:
    name = feature_set_hash(FRAUD)
    patient = FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"max_idle_ms": 999})})
    renewed = FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"version": 2})})
    number = FRAUD.event.numbers["amount"].model_copy(update={"scale": 1_000})
    finer = FRAUD.model_copy(update={"event": FRAUD.event.model_copy(update={"numbers": {"amount": number}})})
    assert len(name) == 12
    assert feature_set_hash(patient) == name
    assert len({name, feature_set_hash(renewed), feature_set_hash(finer)}) == 3


def test_another_scale_or_retention_gives_another_fingerprint() -> None:
    longer = FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"allowed_lateness": 2 * HOUR_MS})})
    assert compile_stage(FRAUD, 0).fingerprint != compile_stage(longer, 0).fingerprint
    assert compile_stage(FRAUD, 0).fingerprint != compile_stage(FRAUD, 1).fingerprint
