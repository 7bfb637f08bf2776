"""What a process says about itself: only keys that we know, and of foreign words only the template."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app import telemetry


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    telemetry.configure(stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def read(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_key_that_nobody_listed_is_dropped(lines: io.StringIO) -> None:
    telemetry.logger("test").info("done", job="job_1", email="ada@example.org")
    (said,) = read(lines)
    assert said.keys() == {"event", "job", "level", "part", "timestamp"}
    assert (said["event"], said["job"], said["level"], said["part"]) == ("done", "job_1", "info", "test")


def test_a_logger_made_before_the_configuration_obeys_it(lines: io.StringIO) -> None:
    early = telemetry.logger("early")
    telemetry.configure(lines)
    early.warning("seen", secret="x")
    assert "secret" not in lines.getvalue()
    assert read(lines)[0]["event"] == "seen"


def test_a_library_keeps_its_template_and_loses_its_arguments(lines: io.StringIO) -> None:
    logging.getLogger("somebody.else").warning("cannot serve %s", "ada@example.org")
    (said,) = read(lines)
    assert (said["event"], said["logger"]) == ("cannot serve %s", "somebody.else")


def test_an_exception_keeps_its_class_and_place_and_loses_its_text(lines: io.StringIO) -> None:
    try:
        int("ada@example.org")
    except ValueError:
        logging.getLogger("somebody.else").exception("failed")
    (said,) = read(lines)
    assert said["error"] == "ValueError"
    assert "test_telemetry.py" in str(said["where"])
    assert "ada" not in lines.getvalue()
