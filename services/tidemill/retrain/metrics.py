"""What the retrain service emits."""

from tidemill.runtime.metrics import Declared

JOB_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)

RETRAIN = (
    Declared(
        "tidemill_retrain_decisions_total", "counter", "decisions", "decisions recorded",
        "read them on the decisions topic: each carries its reason", ("kind", "policy"),
    ),
    Declared(
        "tidemill_retrain_jobs_total", "counter", "jobs", "jobs of the training process by result",
        "refused: the log says why; after job_attempts the candidate is given up", ("job", "result"),
    ),
    Declared(
        "tidemill_retrain_job_seconds", "histogram", "seconds", "wall time of one training or comparison",
        "near job_timeout_s: raise it, or shorten the training window", ("job",), JOB_SECONDS,
    ),
    Declared(
        "tidemill_retrain_unusable_records_total", "counter", "records",
        "records on the drift, decisions or models topic that could not be read and were passed over",
        "above 0: an unknown writer or a newer version of a service; the log names the record", ("topic",),
    ),
    Declared(
        "tidemill_retrain_watermark_seconds", "gauge", "seconds",
        "event time up to which outcomes have matured, seconds since 1970",
        "standing still: look at the outcomes stage and at drift, whose statistics carry it",
    ),
    Declared(
        "tidemill_retrain_champion_version", "gauge", "1", "version that serves, 0 while the rule does",
        "compare with inference's: it lags behind by a moment only",
    ),
    Declared(
        "tidemill_retrain_challenger_version", "gauge", "1", "version in shadow, 0 if none",
        "the same for long: do its scores arrive on the shadow topic?",
    ),
    Declared(
        "tidemill_retrain_pending_alarms", "gauge", "alarms", "alarms on the champion that may still start a training",
        "above 0 for long: the decisions topic has a skip that says what is in the way",
    ),
)  # fmt: skip
