"""Structured logs on stderr: JSON or coloured lines. Messages are constants, values are fields."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs(level: str = "info", style: Literal["json", "console"] = "json", **fields: object) -> None:
    """Set up logging for this process; `fields` go on every line. Libraries' own records appear from WARNING up."""
    as_json = style == "json"
    render: Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.dict_tracebacks] if as_json else []),
            _constant_fields(fields),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_on_stderr,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


@contextmanager
def logs_of_command() -> Iterator[None]:
    """In the block, warnings and worse as lines for people on stderr: standard output is for a command's data."""
    before = structlog.get_config()
    configure_logs("warning", "console")
    try:
        yield
    finally:
        structlog.configure(**before)


def _on_stderr(*_: object) -> structlog.PrintLogger:
    """On what is standard error at the moment of the line."""
    return structlog.PrintLogger(sys.stderr)


class _Libraries(logging.Handler):
    """What libraries log in the standard way, as lines of ours: `logger` names the source, `line` is its text."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"logger": record.name, "line": record.getMessage(), "exc_info": record.exc_info or None}
            get_logger("library").log(record.levelno, "library", **fields)
        except (TypeError, ValueError, KeyError):
            self.handleError(record)  # a faulty line of a library must not end the task that wrote it


def _constant_fields(fields: dict[str, object]) -> Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**fields, **event}

    return add


def get_logger(component: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component`."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger
