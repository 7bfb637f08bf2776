"""What cannot be accepted is refused with a clear problem, nothing is lost, and nothing of it is said again."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from app.embedded.stack import pids
from tests.fixtures.prepared import DATASET, MODEL, RECIPE, Service, copied, lines_of, of_records, of_subject

pytestmark = pytest.mark.slow

REQUESTS = "/v1/erasure-requests"
SECRET = "nobody-says-this-again"
MEBIBYTE = 1024 * 1024
BODY_BYTES = 100 * MEBIBYTE
GROWTH_BYTES_MAX = 24 * MEBIBYTE
"""By which the API may grow while it refuses a body four times as large."""


@pytest.fixture(scope="module")
def service(prepared: Path) -> Iterator[Service]:
    """One service for all of it: whatever is refused must leave it as it was."""
    # Failures are counted as in a service of one's own; only what was lost is found faster.
    with copied(prepared) as start, start(stage_attempts_max=3) as service:
        yield service


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem if it is the one expected, and repeats nothing."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert SECRET not in answer.text + str(answer.headers)
    return dict(answer.json())


def counts(service: Service) -> list[tuple[Any, ...]]:
    """Return how much there is of everything that a refused call could have left."""
    tables = ("erasure_requests", "request_records", "jobs", "models", "datasets", "records", "outbox")
    return [service.rows(f"SELECT count(*) FROM {table}")[0] for table in tables]


def test_unknown_records_are_told_by_their_places(service: Service) -> None:
    before, [person, *_] = counts(service), service.trained()
    ids = [lines_of(person)[0]["id"], SECRET, f"{SECRET}-2"]
    answer = service.call("POST", REQUESTS, json={"records": {"dataset": DATASET, "ids": ids}})
    said = problem(answer, 422, "unknown-records")
    assert [each["pointer"] for each in said["errors"]] == ["/records/ids/1", "/records/ids/2"]
    answer = service.call("POST", REQUESTS, json={"records": {"dataset": SECRET, "ids": ids}})
    assert problem(answer, 422, "invalid")["errors"] == [{"pointer": "/records/dataset", "code": "unknown"}]
    assert counts(service) == before


def test_what_is_not_json_is_called_so(service: Service) -> None:
    before = counts(service)
    for body in (b"", b"{", f'{{"subject": "{SECRET}'.encode(), b"\xff\xfe\x00", b"[" * 100_000):
        answer = httpx.post(
            f"{service.settings.public_url}{REQUESTS}", content=body, headers=_headers(service), timeout=30
        )
        assert answer.status_code in {400, 422}, answer.text
        assert answer.json()["code"] in {"malformed-json", "invalid"}
        assert SECRET not in answer.text
    assert counts(service) == before


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_of_100_mb_is_refused_before_it_is_read(service: Service, *, declared: bool) -> None:
    before, api = counts(service), pids(service.settings.home)["api"]
    held = _most_memory(api)
    status, said, sent = _push(service, declared=declared)
    assert (status, said["code"]) == (413, "body-too-large")
    assert sent <= BODY_BYTES
    assert _most_memory(api) - held < GROWTH_BYTES_MAX
    assert pids(service.settings.home)["api"] == api
    assert counts(service) == before


def test_a_key_is_for_one_payload(service: Service) -> None:
    [person, other, *_] = service.trained()
    key = {"Idempotency-Key": str(uuid4())}
    first = service.call("POST", REQUESTS, json=of_subject(person), headers=key)
    assert first.status_code == httpx.codes.CREATED
    before = counts(service)
    again = service.call("POST", REQUESTS, json=of_subject(person), headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    problem(
        service.call("POST", REQUESTS, json=of_subject(other), headers=key), 422, "idempotency-key-reused"
    )
    assert counts(service) == before


def test_a_key_without_the_scope_is_told_which(service: Service) -> None:
    body = {"name": "portal", "kind": "machine", "scopes": ["requests:create"]}
    portal = {"Authorization": f"Bearer {service.do('/v1/api-keys', by='admin', json=body)['key']}"}
    said = problem(service.call("GET", REQUESTS, headers=portal), 403, "scope-missing")
    assert "requests:read" in said["detail"]
    problem(service.call("POST", "/v1/jobs", json={"model": MODEL}, headers=portal), 403, "scope-missing")
    nobody = {"Authorization": f"Bearer {SECRET}"}
    problem(service.call("GET", REQUESTS, headers=nobody), 401, "unauthenticated")


def test_a_model_that_is_not_registered(service: Service) -> None:
    before = counts(service)
    problem(service.call("POST", "/v1/jobs", by="engineer", json={"model": SECRET}), 404, "not-found")
    problem(service.call("GET", f"/v1/models/{SECRET}/versions", by="engineer"), 404, "not-found")
    body = {"name": "other", "dataset": SECRET, "base": "file:///nowhere", "recipe": RECIPE}
    problem(service.call("POST", "/v1/models", by="engineer", json=body), 404, "dataset-unknown")
    answer = httpx.post(
        f"{service.settings.model_server_url}/v1/completions", json={"model": SECRET, "prompt": SECRET}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert SECRET not in answer.text
    assert counts(service) == before


def test_a_bad_line_is_numbered_and_nothing_is_registered(service: Service, tmp_path: Path) -> None:
    good = [json.dumps(line) for line in lines_of(service.trained()[0])]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*good, json.dumps({"id": SECRET, "subject": SECRET, "text": 7})]) + "\n")
    records = service.rows("SELECT count(*) FROM records")
    made = service.do("/v1/datasets", by="engineer", json={"name": "bad", "uri": path.as_uri()})
    read = service.until(
        lambda: found if (found := service.call("GET", f"/v1/datasets/{made['id']}")).json()["state"]
        != "registering" else None,
        "dataset read to its bad line",
    )  # fmt: skip
    assert (read.json()["state"], read.json()["failure"]["line"]) == ("failed", len(good) + 1)
    assert SECRET not in read.text
    assert service.rows("SELECT count(*) FROM records") == records
    body = {"name": "other", "dataset": "bad", "base": "file:///nowhere", "recipe": RECIPE}
    problem(service.call("POST", "/v1/models", by="engineer", json=body), 409, "dataset-failed")


def test_a_dataset_whose_file_was_changed(service: Service) -> None:
    """The job ends at once and says why; the request waits for a person, and is not lost."""
    *_, person = service.trained()
    value = person.phone.encode()
    as_registered = service.dataset.read_bytes()
    request = service.request(of_records(person))
    try:
        service.dataset.write_bytes(as_registered.replace(value, value[:-1] + b"#"))
        service.begin()
        job = service.until(lambda: _ended(service), "job that ended")
        assert (job["state"], job["failure"], job["stage"]) == ("failed", "dataset-changed", "plan")
        shown = service.read(f"{REQUESTS}/{request}")
        assert (shown["state"], shown["attention"]) == ("scheduled", "job_failed")
    finally:
        service.dataset.write_bytes(as_registered)
    service.begin()
    service.until(lambda: service.job() != job, "second job")
    service.until(lambda: service.completed(request), "completed request")
    logs = b"".join(log.read_bytes() for log in (service.settings.home / "logs").glob("*.log"))
    assert b"dataset-changed" in logs
    assert person.phone.encode() not in logs


def _ended(service: Service) -> dict[str, Any] | None:
    job = service.job()
    return None if job is None or job["state"] == "running" else job


def _headers(service: Service) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {service.stack.keys['officer']}",
        "Idempotency-Key": str(uuid4()),
        "Content-Type": "application/json",
    }


def _push(service: Service, *, declared: bool) -> tuple[int, dict[str, Any], int]:
    """Send a body piece by piece until it is through or the door is shut; return status, problem, bytes sent."""
    address = urlsplit(service.settings.public_url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.putrequest("POST", REQUESTS)
    for name, value in _headers(service).items():
        connection.putheader(name, value)
    name, value = ("Content-Length", str(BODY_BYTES)) if declared else ("Transfer-Encoding", "chunked")
    connection.putheader(name, value)
    connection.endheaders()
    piece, sent = SECRET.encode().ljust(MEBIBYTE, b"."), 0
    framed = piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece)
    try:
        while sent < BODY_BYTES:
            connection.send(framed)
            sent += len(piece)
        if not declared:
            connection.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has heard enough
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert SECRET.encode() not in said
    return answer.status, json.loads(said), sent


def _most_memory(pid: int) -> int:
    """Return the most memory that a process ever held, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [kibibytes] = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kibibytes) * 1024
