"""Any process may die at any line, and any message be lost or come twice: all is concluded exactly once."""

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from app.demo.people import Person
from app.embedded.stack import pids
from tests.fixtures.prepared import MODEL, Service, Start, of_records, of_subject

pytestmark = pytest.mark.slow

PIPELINE = Path(__file__).parents[2] / "workers" / "pipeline.py"
FAILPOINTS = sorted(set(re.findall(r'reach\("([a-z.]+)"\)', PIPELINE.read_text())))
STAGES = ("none", "plan", "unlearn", "verify", "certify", "publish", "conclude", "done")
KILLED = {
    "plan": "worker-gpu",
    "unlearn": "api",
    "verify": "redis",
    "certify": "worker-io",
    "publish": "model-server",
    "conclude": "postgres",
}
"""Who dies in which stage."""


def concluded_once(service: Service, request: str) -> None:
    """The oracle: one completed request, one certificate, one live version with its verdict."""
    service.until(lambda: service.completed(request), "completed request")
    [target] = service.read(f"/v1/erasure-requests/{request}")["targets"]
    assert (target["stage"], target["outcome"]) == ("completed", "exact")
    certificates = service.rows("SELECT id::text, state, version_id FROM certificates")
    assert [(id_, state) for id_, state, _ in certificates] == [(target["certificate"], "released")]

    versions = service.read(f"/v1/models/{MODEL}/versions", by="engineer")["items"]
    published = [version for version in versions if version["published_at"] is not None]
    assert [version["number"] for version in published] == [1, 2]
    assert [version["id"] for version in versions if version["state"] == "live"] == [target["version"]]
    assert all(version["job"] == target["job"] for version in versions[1:])

    judged = """SELECT v.id FROM model_versions v JOIN jobs j ON j.candidate_id = v.id
        JOIN verdicts d ON d.job_id = j.id AND d.attempt = j.attempt WHERE v.number > 1"""
    assert service.rows(judged) == [(version,) for _, _, version in certificates]
    assert service.rows("SELECT state, stage FROM jobs") == [("concluded", "done")]
    assert service.rows("SELECT breaker, failed_jobs FROM models") == [("closed", 0)]

    events = [json.loads(bytes(body)) for (body,) in service.rows("SELECT body FROM audit_events")]
    told = Counter(event["kind"] for event in events)
    once = ("job.opened", "verdict.reached", "certificate.issued", "certificate.released", "job.concluded")
    assert {kind: told[kind] for kind in once} == dict.fromkeys(once, 1)
    assert told["version.published"] == 2
    assert service.do("/v1/audit/verify")["valid"]


def ask(service: Service, *, by_list: bool = False) -> tuple[str, Person]:
    """Send one person's request and ask for its job."""
    [person, *_] = service.trained()
    request = service.request(of_records(person) if by_list else of_subject(person))
    service.begin()
    return request, person


def reach(service: Service, stage: str) -> str:
    """Wait until the job has come to a stage; return the one it is in, should that be a later one."""
    return service.until(
        lambda: found if STAGES.index(found := service.stage()) >= STAGES.index(stage) else None,
        f"job in stage {stage}",
        poll_seconds=0.02,
    )


def test_a_job_killed_at_every_boundary(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place kills the first process that comes by; the references rebuilt after the job count too."""
    assert len(FAILPOINTS) >= 15
    monkeypatch.setenv("LETHE_FAILPOINT", ",".join(FAILPOINTS))
    monkeypatch.setenv("LETHE_FAILPOINT_ONCE", str(tmp_path))
    with start() as service:
        request, _ = ask(service)
        service.until(lambda: service.completed(request), "completed request")
        service.until(service.is_whole, "set of rebuilt references")
        concluded_once(service, request)
        assert sorted(path.name for path in tmp_path.iterdir()) == FAILPOINTS


def test_every_process_killed_once_during_a_job(start: Start) -> None:
    with start() as service:
        request, _ = ask(service, by_list=True)
        fell = []
        for stage, part in KILLED.items():
            fell.append(reach(service, stage))
            os.kill(pids(service.settings.home)[part], signal.SIGKILL)
        concluded_once(service, request)
        service.until(service.is_whole, "set of rebuilt references")
        assert pids(service.settings.home).keys() >= set(KILLED.values())
        assert len(set(fell) - {"done"}) >= len(KILLED) - 1, fell


def test_a_broker_that_forgets_all_and_then_falls_silent(start: Start) -> None:
    """No bell is heard any more; what looks after things finds the rest."""
    with start() as service, broker(service) as client:
        request, _ = ask(service)
        reach(service, "plan")
        client.flushall()
        reach(service, "unlearn")
        process = pids(service.settings.home)["redis"]
        os.kill(process, signal.SIGSTOP)
        try:
            concluded_once(service, request)
        finally:
            os.kill(process, signal.SIGCONT)


def test_every_message_twice(start: Start) -> None:
    with start() as service, broker(service) as client:
        echo = Echo(client)
        echo.start()
        request, _ = ask(service)
        concluded_once(service, request)
        client.echo(Echo.END)
        echo.join(30)
        stages = [json.loads(said)["headers"]["argsrepr"] for said in echo.repeated]
        for stage in STAGES[1:-1]:
            assert any(f"'{stage}'" in args for args in stages), stage


class Echo(threading.Thread):
    """Listens to what Redis is told, and pushes each message once more as soon as it was pushed."""

    END = "no-more-echoes"

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(name="echo", daemon=True)
        self.repeated: set[str] = set()
        self._client = client
        self._monitor = client.monitor()  # type: ignore[no-untyped-call]  # redis-py types all but this
        self._monitor.__enter__()

    def run(self) -> None:
        for command in self._monitor.listen():
            word, _, rest = command["command"].partition(" ")
            queue, _, message = rest.partition(" ")
            if word == "LPUSH" and message not in self.repeated:
                self.repeated.add(message)
                self._client.lpush(queue, message)
            if word == "ECHO" and queue == self.END:
                return


@contextmanager
def broker(service: Service) -> Iterator[redis.Redis]:
    """Yield a client of the stack's Redis."""
    url = str(service.settings.redis_url)
    client: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield client
    finally:
        client.close()
