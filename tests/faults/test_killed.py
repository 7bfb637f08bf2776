"""Any process may die at any line: every request is concluded once, and nothing is claimed too early."""

import json
import re
import signal
import threading
import time
from os import kill
from pathlib import Path

import pytest

from app.embedded.stack import pids
from tests.fixtures.small import Small, by_id, running

pytestmark = pytest.mark.slow

PIPELINE = Path(__file__).parents[2] / "workers" / "pipeline.py"
FAILPOINTS = sorted(set(re.findall(r'reach\("([a-z.]+)"\)', PIPELINE.read_text())))


def concluded_once(small: Small, request: str) -> None:
    """The oracle: one completed request, one released certificate, one live version with a verdict."""
    body = small.until(f"/v1/erasure-requests/{request}", lambda b: b["state"] == "completed", by="officer")
    [target] = body["targets"]
    assert target["outcome"] == "exact"
    assert small.rows("SELECT count(*) FROM certificates WHERE state = 'released'") == [(1,)]
    assert small.rows("SELECT count(*) FROM certificates WHERE state <> 'released'") == [(0,)]
    assert small.rows("SELECT number FROM model_versions WHERE state = 'live'") == [(2,)]
    unjudged = """SELECT count(*) FROM model_versions v WHERE v.number > 1 AND NOT EXISTS
        (SELECT 1 FROM verdicts d JOIN jobs j ON j.id = d.job_id WHERE j.candidate_id = v.id)"""
    assert small.rows(unjudged) == [(0,)]
    unpublished = """SELECT count(*) FROM certificates c JOIN model_versions v ON v.id = c.version_id
        WHERE v.published_at IS NULL"""
    assert small.rows(unpublished) == [(0,)]
    kinds = [json.loads(bytes(row[0]))["kind"] for row in small.rows("SELECT body FROM audit_events")]
    assert kinds.count("target.concluded") == 1
    assert kinds.count("certificate.released") == 1
    assert small.call("POST", "/v1/audit/verify", by="officer")["broken_at"] is None


def test_a_job_killed_at_every_boundary_is_concluded_once(tmp_path: Path) -> None:
    assert len(FAILPOINTS) >= 15
    with running(LETHE_FAILPOINT=",".join(FAILPOINTS), LETHE_FAILPOINT_ONCE=str(tmp_path)) as small:
        [person, *_] = by_id(small.learn())
        request = small.ask(person)
        small.run()
        concluded_once(small, request)
        assert sorted(path.name for path in tmp_path.iterdir()) == FAILPOINTS


def test_every_process_dies_once_during_a_job() -> None:
    with running() as small:
        [person, *_] = by_id(small.learn())
        request = small.ask(person)
        small.run()
        for stage, victim in (
            ("unlearn", "worker-gpu"),
            ("unlearn", "redis"),
            ("verify", "api"),
            ("verify", "worker-io"),
        ):
            wait_for(small, stage)
            kill(pids(small.stack.home)[victim], signal.SIGKILL)
            time.sleep(1)
        concluded_once(small, request)


def wait_for(small: Small, stage: str) -> None:
    """Wait until a job has come to a stage, or past it."""
    line = ["plan", "unlearn", "verify", "certify", "publish", "conclude", "done"]
    small.until(
        "/v1/jobs",
        lambda b: bool(b["items"]) and line.index(b["items"][0]["stage"]) >= line.index(stage),
    )


def test_a_bell_rung_many_times_is_one_job() -> None:
    with running() as small:
        [person, *_] = by_id(small.learn())
        request = small.ask(person)
        callers = [threading.Thread(target=small.run) for _ in range(8)]
        for each in callers:
            each.start()
        for each in callers:
            each.join()
        concluded_once(small, request)
        assert small.rows("SELECT count(*) FROM jobs") == [(1,)]
