"""Why a process ended, in words, from its exit status and its log."""

import json
import signal
from pathlib import Path

from tidemill.local.processes import last_lines

_FATAL_LEVELS = ("critical", "fatal", "error")
_TOLD_FIELDS = ("event", "reason", "error", "message", "hint")
_LINES_READ, _LINES_SHOWN = 40, 6  # an error further back is not why it ended


def explain(status: int, log_file: Path, start: int = 0) -> str:
    """One to a few lines: the log's last error if its lines are JSON, else its last lines. `start` is a byte offset."""
    lines = last_lines(log_file, _LINES_READ, start)
    told = next((sentence for sentence in map(_fatal, reversed(lines)) if sentence), None)
    ended = f"killed by {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    if status == 0 or not lines:
        return ended
    return f"{ended}: {told}" if told else "\n  ".join([f"{ended}; its last lines:", *lines[-_LINES_SHOWN:]])


def _fatal(line: str) -> str | None:
    """What a JSON log line of an error says, or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if str(record.get("level", "")).lower() not in _FATAL_LEVELS:
        return None
    parts = [str(record[name]) for name in _TOLD_FIELDS if record.get(name)]
    return " · ".join(parts) or None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
