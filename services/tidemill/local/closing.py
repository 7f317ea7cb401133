"""How many days of stream a pipeline needs before its learning loop can have closed. Pure."""

from math import ceil

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline

TRAINING_SECONDS = 15
"""Wall time set aside for one training, in which the stream runs on."""

MEASURED_AFTER_DAYS = 7
"""Matured days that the last promoted model is judged by."""


def minimum_days(pipeline: Pipeline, days_per_minute: float) -> int:
    """Days until a second model, asked for by an alarm, can have been promoted and judged.

    The sum of what must follow one another: the longest look-back of a feature fills; a first model trained on what
    has matured serves and the full windows raise the alarm; a training; the shadow phase and its maturity; and the
    days that judge the outcome, matured. `days_per_minute` turns training time into stream time (0: as fast as it
    goes, for which nothing can be said, so the slowest reasonable stream is taken).
    """
    look_back = max(feature.look_back for stage in pipeline.features.stages for feature in stage.features)
    maturity = pipeline.outcomes.maturity
    retrain = pipeline.retrain
    first_model = retrain.train_window + retrain.gates.holdout + maturity + retrain.shadow.matured + maturity
    training = TRAINING_SECONDS / 60 * days_per_minute * DAY_MS
    second_model = training + retrain.shadow.matured + maturity
    judged = MEASURED_AFTER_DAYS * DAY_MS + maturity
    return ceil((max(look_back, first_model + training) + second_model + judged) / DAY_MS)
