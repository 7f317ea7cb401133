"""Every target by name, made when it is asked for; the decoders' services and their libraries are imported then."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from fuzzing.target import Target


class Entry(NamedTuple):
    """Where a target is made, and its share of all executions: less for decoders that take long."""

    module: str
    share: float = 1.0

    def make(self, name: str) -> Target:
        module = import_module(f"fuzzing.targets.{self.module}")
        maker: Callable[[], Target] = getattr(module, name.partition("-")[2].replace("-", "_"))
        return maker()


TARGETS = {
    **dict.fromkeys(("ingest-payments", "ingest-labels", "ingest-limits", "ingest-logins"), Entry("ingest")),
    **dict.fromkeys(("ingest-http-json", "ingest-http-lines", "ingest-http-headers"), Entry("ingest")),
    "ingest-http-request": Entry("ingest", 0.1),
    **dict.fromkeys(("features-events", "features-later", "features-streams"), Entry("features", 0.3)),
    **dict.fromkeys(("features-summaries", "features-outcomes"), Entry("features", 0.3)),
    "features-watermarks": Entry("features"),
    **dict.fromkeys(("features-chunks", "features-open-windows", "features-join-state"), Entry("features", 0.3)),
    **dict.fromkeys(("inference-rows", "inference-http", "inference-selection"), Entry("inference")),
    **dict.fromkeys(("inference-models", "inference-signed-models"), Entry("inference", 0.2)),
    **dict.fromkeys(("inference-chunks", "inference-chunk-keys"), Entry("inference")),
    "inference-artefact": Entry("inference", 0.05),
    **dict.fromkeys(("drift-predictions", "drift-outcomes", "drift-state"), Entry("drift")),
    "drift-service": Entry("drift", 0.2),
    **dict.fromkeys(("retrain-drift", "retrain-decisions", "retrain-outcomes"), Entry("retrain")),
    **dict.fromkeys(("runtime-letters", "runtime-markers", "runtime-marks", "runtime-options"), Entry("runtime")),
    "runtime-yaml": Entry("runtime", 0.003),
}
SELFTESTS = dict.fromkeys(("selftest-raised", "selftest-died", "selftest-hung", "selftest-slow"), Entry("selftest"))
"""Planted defects, run only when they are named."""
KNOWN = TARGETS | SELFTESTS
