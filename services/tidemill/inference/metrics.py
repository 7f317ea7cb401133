"""What the inference service counts and logs. Declared once; `Telemetry` is the only place that emits."""

from tidemill import clock
from tidemill.inference.catalogue import Selection
from tidemill.inference.core.active import Active
from tidemill.inference.core.blocks import Batch, Lane
from tidemill.inference.core.model import Model
from tidemill.inference.core.predictions import version_of
from tidemill.inference.core.registry import Refusal
from tidemill.runtime.health import Health
from tidemill.runtime.logs import get_logger
from tidemill.runtime.metrics import Declared

ROLES = ("champion", "challenger")

INFERENCE = (
    Declared(
        "tidemill_inference_model_version", "gauge", "1", "version that serves in each role; 0 where none does",
        "champion 0: the fallback rule scores; look at refused_total and at the decisions topic", ("role",),
    ),
    Declared(
        "tidemill_inference_model_epoch", "gauge", "1", "activation epoch that serves",
        "differs between instances for long: one of them refuses what the others serve",
    ),
    Declared(
        "tidemill_inference_predictions_total", "counter", "records", "predictions by who made them (model, rule)",
        "rule grows although a model was promoted: look at model_version and refused_total", ("by",),
    ),
    Declared(
        "tidemill_inference_shadow_total", "counter", "records", "challenger scores written",
        "flat with a challenger active: look at challenger_failures_total",
    ),
    Declared(
        "tidemill_inference_challenger_failures_total", "counter", "rows", "rows a challenger gave no valid score for",
        "the candidate is not fit to serve; its shadow comparison lacks these rows",
    ),
    Declared(
        "tidemill_inference_batch_rows", "histogram", "rows", "rows in a batch, before padding",
        "all small under load: the stream arrives in small polls; raise transaction_gap_ms",
        buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096),
    ),
    Declared(
        "tidemill_inference_batch_seconds", "histogram", "seconds", "execution of a batch, the challenger's included",
        "above the deadline of HTTP clients: smaller max_size, or a faster device",
        buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
    ),
    Declared(
        "tidemill_inference_batches_total", "counter", "batches", "batches by why they were closed",
        "mostly full: the model is the bottleneck; mostly max_wait: max_wait_ms only adds latency", ("reason",),
    ),
    Declared(
        "tidemill_inference_padded_rows_total", "counter", "rows", "rows of padding executed for nothing",
        "large against predictions: choose buckets nearer to the sizes in batch_rows",
    ),
    Declared(
        "tidemill_inference_queue_rows", "gauge", "rows", "rows waiting for the model slot",
        "http near batching.queue_limit: clients get 429; add an instance", ("lane",),
    ),
    Declared(
        "tidemill_inference_poison_rows_total", "counter", "rows", "rows that the model could not score",
        "`tidemill dlq ls --code model_error` shows the records; retrain on such input or reject it at ingest",
    ),
    Declared(
        "tidemill_inference_broken_total", "counter", "failures", "times a model failed on its own probe",
        "roll back to another version; the service stops when it happens twice in a row",
    ),
    Declared(
        "tidemill_inference_provider", "gauge", "1", "1 for the execution provider that serves",
        "not the one you deployed for: see provider_fallback", ("provider",),
    ),
    Declared(
        "tidemill_inference_provider_fallback", "gauge", "1", "1 when CUDA was wanted and the CPU serves",
        "install onnxruntime-gpu, check the driver and that the device is visible in the container",
    ),
    Declared(
        "tidemill_inference_refused_total", "counter", "records", "records of the models topic that were refused",
        "GET /v2/models and the log say which version and why", ("reason",),
    ),
    Declared(
        "tidemill_inference_swaps_total", "counter", "swaps", "times a partition changed its selection of models",
        "more than the activations on the models topic: the group rebalances between instances that disagree",
    ),
    Declared(
        "tidemill_inference_load_seconds", "histogram", "seconds", "verify, load and warm up one version",
        "seconds: the artefact is large; it delays activation, never serving",
        buckets=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
    ),
    Declared(
        "tidemill_inference_swap_seconds", "histogram", "seconds", "from an offered selection to its first use",
        "long: no records arrive, or batches are slow", buckets=(0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0),
    ),
    Declared(
        "tidemill_inference_requests_total", "counter", "requests", "HTTP inference requests by status code",
        "429: overload; 504: deadlines too short for the load; 400: the client's `error` says what", ("status",),
    ),
)  # fmt: skip


class Telemetry:
    """Implements the observers of worker, delivery, shell and HTTP; each calls from its own thread.

    `health.metrics` must have `INFERENCE` declared.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._metrics = health.metrics
        self._log = get_logger("inference")
        self._offered_at: dict[int, float] = {}
        for role in ROLES:
            self._metrics.set("tidemill_inference_model_version", 0, role)
        self._metrics.set("tidemill_inference_provider_fallback", 0)

    # worker

    def batch_scored(self, batch: Batch, seconds: float, poison_rows: int) -> None:
        count = self._metrics.count
        self._metrics.observe("tidemill_inference_batch_rows", batch.size)
        self._metrics.observe("tidemill_inference_batch_seconds", seconds)
        count("tidemill_inference_batches_total", 1, batch.reason.value)
        count("tidemill_inference_padded_rows_total", batch.bucket - batch.size)
        if poison_rows:
            count("tidemill_inference_poison_rows_total", poison_rows)

    def queue_changed(self, stream_rows: int, http_rows: int) -> None:
        self._metrics.set("tidemill_inference_queue_rows", stream_rows, Lane.KAFKA.value)
        self._metrics.set("tidemill_inference_queue_rows", http_rows, Lane.HTTP.value)

    def challenger_failed(self, rows: int) -> None:
        self._metrics.count("tidemill_inference_challenger_failures_total", rows)

    def model_broken(self, model: Model, message: str) -> None:
        self._metrics.count("tidemill_inference_broken_total")
        self._log.error("model broken", model=model.name, version=model.version, cause=message)

    # delivery

    def refused(self, refusal: Refusal) -> None:
        self._metrics.count("tidemill_inference_refused_total", 1, refusal.reason)
        self._health.info["last_refusal"] = refusal._asdict()
        self._log.error("model refused", **refusal._asdict())

    def loaded(self, model: Model, seconds: float) -> None:
        self._metrics.observe("tidemill_inference_load_seconds", seconds)
        self._log.info("model loaded", version=model.version, provider=model.provider, seconds=round(seconds, 3))

    def offered(self, selection: Selection) -> None:
        self._offered_at = {selection.epoch: clock.monotonic()}
        self._log.info(
            "selection offered",
            epoch=selection.epoch,
            champion=version_of(selection.champion),
            challenger=version_of(selection.challenger),
        )

    def caught_up(self) -> None:
        self._log.info("models topic read")

    def fell_back(self) -> None:
        """CUDA was wanted; the CPU serves."""
        self._metrics.set("tidemill_inference_provider_fallback", 1)
        self._log.warning("cpu serves instead of cuda")

    def waiting(self, cause: str) -> None:
        """Delivery cannot go on for now and tries again."""
        self._log.warning("model delivery waits", cause=cause)

    # shell

    def switched(self, partition: int, active: Active, provider: str) -> None:
        set_gauge = self._metrics.set
        set_gauge("tidemill_inference_model_version", active.champion or 0, "champion")
        set_gauge("tidemill_inference_model_version", active.challenger or 0, "challenger")
        set_gauge("tidemill_inference_model_epoch", active.epoch)
        for known in {provider, *self._providers()}:
            set_gauge("tidemill_inference_provider", 1.0 if known == provider else 0.0, known)
        self._health.info["provider"] = provider
        self._health.info["model"] = {
            "champion": active.champion,
            "challenger": active.challenger,
            "epoch": active.epoch,
        }

    def recorded(self, partition: int, active: Active) -> None:
        """A switch, as opposed to taking up what was recorded before."""
        self._metrics.count("tidemill_inference_swaps_total")
        offered_at = self._offered_at.get(active.epoch)
        if offered_at is not None:
            self._metrics.observe("tidemill_inference_swap_seconds", clock.monotonic() - offered_at)
        self._log.info(
            "selection taken over",
            partition=partition,
            from_offset=active.from_offset,
            epoch=active.epoch,
            champion=active.champion,
            challenger=active.challenger,
        )

    def predicted(self, by_model: int, by_rule: int, shadow: int) -> None:
        count = self._metrics.count
        count("tidemill_inference_predictions_total", by_model, "model")
        count("tidemill_inference_predictions_total", by_rule, "rule")
        count("tidemill_inference_shadow_total", shadow)

    # HTTP

    def answered(self, status: int) -> None:
        self._metrics.count("tidemill_inference_requests_total", 1, str(status))

    def _providers(self) -> set[str]:
        held = self._health.info.get("provider")
        return {held} if isinstance(held, str) else set()
