"""Readiness of a service that is one active instance: without all partitions it is not ready, whoever says it is."""

from tidemill.runtime.health import Health


class SoleInstanceHealth(Health):
    """As `Health`, but a refusal stands until it is withdrawn."""

    _refusal: str | None = None

    def refuse(self, reason: str | None) -> None:
        """Not ready for `reason`, until called with None; readiness itself is then again the loop's to declare."""
        self._refusal = reason
        if reason is not None:
            self.set_ready(False, reason)

    def set_ready(self, ready: bool, reason: str = "") -> None:
        if ready and self._refusal is not None:
            super().set_ready(False, self._refusal)
        else:
            super().set_ready(ready, reason)
