"""Every error that Tidemill raises on purpose, and what each means for the process.

A `TidemillError` carries one sentence that names the cause and one that names the next step; the command line prints
both and exits with `exit_code`. Anything else that escapes is a defect and keeps its traceback.
"""


class TidemillError(Exception):
    """A failure with a known cause; `hint` says what the reader can do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigurationError(TidemillError):
    """Settings, a pipeline file or command-line arguments are wrong. Nothing was started."""

    exit_code = 2


class EnvironmentUnusable(TidemillError):
    """The machine lacks something (memory, a port, a download) that the command needs."""

    exit_code = 3


class Fenced(TidemillError):
    """Another process holds this instance's transactional id: two instances share one ordinal."""

    exit_code = 4


class BreakerOpen(TidemillError):
    """Too large a share of recent records was invalid; the service stopped before its committed offset."""

    exit_code = 5


class StateCorrupt(TidemillError):
    """A changelog cannot be trusted (wrong fingerprint, gap, committed offset outside the log)."""

    exit_code = 6


class StateFull(TidemillError):
    """A cap on state is met and nothing may be forgotten for it. Nothing of the transaction was committed."""

    exit_code = 7


class RecordError(Exception):
    """One record is bad. Raised inside a core for a single record; it costs that record a dead letter, nothing else.

    `code` is a stable machine-readable reason (`[a-z_]+`), `message` is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
