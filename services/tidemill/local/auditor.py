"""The audit process, seen from the command that runs it."""

from pathlib import Path
from typing import Any

from tidemill.local.lineprocess import LineProcess

_COUNTS_WITHIN_S = 300.0
_REPORT_WITHIN_S = 1_800.0
"""A report first reads everything that is there, which may be the backlog of a long overload."""


class Auditor:
    """Runs `tidemill.local.audit` as a child; ask it from one thread.

    Every question raises TidemillError if it is not answered within minutes, the report within half an hour.
    """

    def __init__(self, bootstrap_servers: str, pipeline: str, log_file: Path, *, latency_sample: int = 16) -> None:
        options = ["--bootstrap-servers", bootstrap_servers, "--pipeline", pipeline]
        options += ["--latency-sample", str(latency_sample)]
        self._process = LineProcess("tidemill.local.audit", options, log_file)

    @property
    def pid(self) -> int:
        return self._process.pid

    def progress(self) -> dict[str, Any]:
        """Counts so far; blocks for as long as the audit takes to come round, well under a second."""
        return self._process.ask(b"progress", _COUNTS_WITHIN_S)

    def reset(self) -> dict[str, Any]:
        """Counts so far, and latencies are measured anew from here on."""
        return self._process.ask(b"reset", _COUNTS_WITHIN_S)

    def close_window(self) -> dict[str, Any]:
        """Counts so far, and events sent from here on are not timed; those sent before are, whenever they arrive."""
        return self._process.ask(b"window", _COUNTS_WITHIN_S)

    def report(self) -> dict[str, Any]:
        """The books closed as they stand; a few seconds for a million events."""
        return self._process.ask(b"report", _REPORT_WITHIN_S)

    def close(self) -> None:
        self._process.close()
