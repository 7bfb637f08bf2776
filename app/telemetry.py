"""What the processes say about themselves: JSON lines with an allow-list of keys, and metrics.

An unknown key is dropped, not escaped: what was never meant to be logged cannot leak by an honest
mistake. Messages of foreign loggers keep their template and lose their arguments; exceptions keep
their class and the place, and lose their text, because texts quote what people sent.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

KEYS = frozenset(
    {
        "attempt",
        "code",
        "count",
        "dataset",
        "epoch",
        "error",
        "event",
        "exit",
        "job",
        "level",
        "logger",
        "method",
        "milliseconds",
        "model",
        "part",
        "pid",
        "port",
        "request",
        "request_id",
        "route",
        "rows",
        "seconds",
        "stage",
        "state",
        "status",
        "target",
        "timestamp",
        "version",
        "where",
        "worker",
    }
)

registry = CollectorRegistry()
requests = Counter("lethe_http_requests", "Calls answered.", ["method", "route", "status"], registry=registry)
request_seconds = Histogram(
    "lethe_http_request_seconds", "Time to answer a call.", ["method", "route"], registry=registry
)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger that says which part of the program speaks."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(part=name))


def configure(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Send our own events and those of libraries to `stream` as JSON lines; composition roots only."""
    target = stream or sys.stderr
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            allow,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    handler = _Foreign()
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    for name in ("uvicorn", "uvicorn.error", "celery"):
        foreign = logging.getLogger(name)
        foreign.handlers, foreign.propagate = [], True
        foreign.setLevel(level)


def allow(_logger: object, _method: str, event: MutableMapping[str, object]) -> Mapping[str, object]:
    """Keep the keys we know."""
    return {key: value for key, value in event.items() if key in KEYS}


def failure(error: BaseException) -> dict[str, str]:
    """Return what may be said of an exception: its class and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in reversed(frames[-4:]))
    return {"error": type(error).__name__, "where": where}


class _Foreign(logging.Handler):
    """Takes what libraries log: the template without its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        said = failure(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        structlog.get_logger().log(record.levelno, str(record.msg), logger=record.name, **said)
