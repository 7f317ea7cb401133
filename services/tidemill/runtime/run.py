"""Runs one stage as a process: waits for Kafka and its topics, drives the loop, leaves on a signal."""

from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.service import Service
from tidemill.runtime.spec import Replaying, ServiceSpec

__all__ = ["Replaying", "ServiceSpec", "run_service"]


def run_service(spec: ServiceSpec, config: RuntimeConfig, service: Service, health: Health) -> int:
    """Blocks until SIGTERM, SIGINT or a fatal error, and returns the exit code (0 after a signal)."""
    raise NotImplementedError
