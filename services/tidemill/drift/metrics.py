"""What the drift service measures, and what an operator does about it."""

from tidemill.runtime.metrics import Declared

ALARMS = "tidemill_drift_alarms_total"
WATCHED = "tidemill_drift_watched_predictions_total"
MEAN = "tidemill_drift_mean_ratio"
GENERATION = "tidemill_drift_generation_number"
AVERAGE_PRECISION = "tidemill_drift_average_precision_ratio"
WATERMARK = "tidemill_drift_watermark_seconds"

DECLARED = (
    Declared(
        ALARMS, "counter", "alarms", "alarms written to the drift topic",
        "read the alarm's reason; retrain decides by itself what to do about it", ("policy", "detector"),
    ),
    Declared(
        WATCHED, "counter", "predictions", "sampled predictions that the detectors have seen",
        "flat while predictions flow: no model serves, or drift.sample_share is tiny",
    ),
    Declared(
        MEAN, "gauge", "1", "recent mean of a detector's input: 0.5 is usual for feature:<name>, which is a rank",
        "far from usual without an alarm: the detector has alarmed already in this generation", ("detector",),
    ),
    Declared(
        GENERATION, "gauge", "1", "number of the detectors' generation; it rises with each promotion",
        "rising fast: drift.generation_events is small for this traffic",
    ),
    Declared(
        AVERAGE_PRECISION, "gauge", "1", "average precision of what was live over drift.floor_window",
        "below drift.min_average_precision: expect a performance alarm, then a retraining",
    ),
    Declared(
        WATERMARK, "gauge", "seconds", "outcomes before this event time (seconds since 1970) have matured",
        "standing still while events flow: labels or the outcomes join have stopped",
    ),
)  # fmt: skip
