"""How each running service is doing, read from the endpoints that it announced: /readyz and /metrics."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.parser import text_string_to_metric_families

from tidemill import clock
from tidemill.local.supervisor import Endpoint

TIMEOUT_S = 2.0
_UNREACHABLE = (urllib.error.URLError, http.client.HTTPException, OSError)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one service. `metrics` maps (sample name, label values joined by a comma) to the value."""

    endpoint: Endpoint
    at: float
    state: str
    reason: str
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)

    def total(self, name: str) -> float | None:
        """The sum of `name` over its labels, or None where the service does not have it."""
        values = [value for (sample, _), value in self.metrics.items() if sample == name]
        return sum(values) if values else None


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One row of `tidemill status` and of the live table; None where it does not apply."""

    service: str
    state: str
    reason: str
    url: str
    pid: int
    rate: float | None
    lag: float | None
    latency_ms: float | None
    model: str | None
    drift: str | None
    dlq: float | None

    @property
    def healthy(self) -> bool:
        return self.state == "ready"


def read_endpoints(folder: Path) -> list[Endpoint]:
    """Endpoints announced in `folder`, sorted by service. A file that is being written is left for the next look."""
    found = []
    for path in sorted(folder.glob("*.endpoint.json")):
        try:
            entry = orjson.loads(path.read_bytes())
            found.append(Endpoint(entry["service"], int(entry["instance"]), int(entry["pid"]), entry["url"]))
        except (orjson.JSONDecodeError, KeyError, FileNotFoundError):
            continue
    return found


def look(endpoint: Endpoint) -> Sample:
    """Ask one service how it is. Blocks for at most a few seconds; never raises for a service that is down."""
    now = clock.monotonic()
    try:
        state, reason = _readiness(endpoint.url)
        with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
    except _UNREACHABLE as error:
        return Sample(endpoint, now, "down", f"{endpoint.url} does not answer: {error}")
    return Sample(endpoint, now, state, reason, _parse(text))


def _readiness(url: str) -> tuple[str, str]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=TIMEOUT_S) as answer:
            answer.read()
        return "ready", ""
    except urllib.error.HTTPError as error:
        body: dict[str, Any] = {}
        try:
            body = orjson.loads(error.read())
        except orjson.JSONDecodeError:
            body = {"reason": f"/readyz answered {error.code}"}
        return "starting", str(body.get("reason", ""))


def _parse(text: str) -> dict[tuple[str, str], float]:
    metrics: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("tidemill_"):
            continue
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                metrics[(sample.name, labels)] = sample.value
    return metrics


def status(before: Sample | None, now: Sample) -> StageStatus:
    """The row for a service from two looks; rates need both."""
    endpoint = now.endpoint
    return StageStatus(
        service=endpoint.service,
        state=now.state,
        reason=now.reason,
        url=endpoint.url,
        pid=endpoint.pid,
        rate=_rate(before, now, "tidemill_runtime_records_total"),
        lag=now.total("tidemill_runtime_lag_records"),
        latency_ms=_mean_ms(before, now, "tidemill_runtime_transaction_seconds"),
        model=_model(now),
        drift=_drift(now),
        dlq=now.total("tidemill_runtime_dead_letters_total"),
    )


def statuses(before: Iterable[Sample], now: Iterable[Sample]) -> list[StageStatus]:
    earlier = {sample.endpoint: sample for sample in before}
    return [status(earlier.get(sample.endpoint), sample) for sample in now]


def _rate(before: Sample | None, now: Sample, name: str) -> float | None:
    first, second = before.total(name) if before else None, now.total(name)
    if before is None or first is None or second is None or now.at <= before.at:
        return None
    return max(0.0, (second - first) / (now.at - before.at))


def _mean_ms(before: Sample | None, now: Sample, name: str) -> float | None:
    """Mean over the time between the looks, or since the start where nothing happened between them."""
    total, count = now.total(f"{name}_sum"), now.total(f"{name}_count")
    if total is None or not count:
        return None
    earlier_total = (before.total(f"{name}_sum") if before else None) or 0.0
    earlier_count = (before.total(f"{name}_count") if before else None) or 0.0
    if count > earlier_count:
        return 1000 * (total - earlier_total) / (count - earlier_count)
    return 1000 * total / count


def _model(sample: Sample) -> str | None:
    versions = {
        labels: value for (name, labels), value in sample.metrics.items() if name == "tidemill_inference_model_version"
    }
    if not versions:
        return None
    parts = []
    for role in ("champion", "challenger"):
        version = max((value for labels, value in versions.items() if f"role={role}" in labels), default=0)
        if version > 0:
            parts.append(f"v{version:.0f}" if role == "champion" else f"(v{version:.0f} in shadow)")
    return " ".join(parts) or "rule"


def _drift(sample: Sample) -> str | None:
    alarms = sample.total("tidemill_drift_alarms_total")
    return None if alarms is None else f"{alarms:.0f} alarms"
