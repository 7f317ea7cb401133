"""What the metrics say of a committed transaction."""

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter

from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import Output


def count_transaction(
    metrics: Metrics, read: Mapping[str, int], newest_ms: int, output: Output, seconds: float
) -> None:
    """`read` is records by input topic, `newest_ms` their newest timestamp, 0 where there was none."""
    metrics.count("tidemill_runtime_transactions_total", 1, "committed")
    metrics.observe("tidemill_runtime_transaction_seconds", seconds)
    for topic, count in read.items():
        metrics.count("tidemill_runtime_records_total", count, topic)
    for topic, count in Counter(map(itemgetter(0), output.records)).items():
        metrics.count("tidemill_runtime_outputs_total", count, topic)
    for code, count in Counter(dead.code for dead in output.dead).items():
        metrics.count("tidemill_runtime_dead_letters_total", count, code)
    if newest_ms:
        metrics.set("tidemill_runtime_event_time_seconds", newest_ms / 1000)
