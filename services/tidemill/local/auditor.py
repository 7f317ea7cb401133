"""The audit process, seen from the command that runs it."""

from pathlib import Path
from typing import Any

from tidemill.local.lineprocess import LineProcess


class Auditor:
    """Runs `tidemill.local.audit` as a child; ask it from one thread."""

    def __init__(self, bootstrap_servers: str, pipeline: str, log_file: Path, *, latency_sample: int = 16) -> None:
        options = ["--bootstrap-servers", bootstrap_servers, "--pipeline", pipeline]
        options += ["--latency-sample", str(latency_sample)]
        self._process = LineProcess("tidemill.local.audit", options, log_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def progress(self) -> dict[str, Any]:
        """Counts so far; blocks for as long as the audit takes to come round, well under a second."""
        return self._process.ask(b"progress")

    def reset(self) -> dict[str, Any]:
        """Counts so far, and latencies are measured anew from here on."""
        return self._process.ask(b"reset")

    def close_window(self) -> dict[str, Any]:
        """Counts so far, and events sent from here on are not timed; those sent before are, whenever they arrive."""
        return self._process.ask(b"window")

    def report(self) -> dict[str, Any]:
        """The books closed as they stand; a few seconds for a million events."""
        return self._process.ask(b"report")

    def close(self) -> None:
        self._process.close()
