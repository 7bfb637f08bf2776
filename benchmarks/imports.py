"""A file of requests imported by API and worker, against a bare COPY of the same rows, in one run.

    python -m benchmarks.imports [--rows N] [--kill] [--out FILE.json]

The floor: Postgres takes the same rows into one table by one COPY. The service also checks each row, hashes
whom it names, stages it, searches the records, counts the dates, and chains its audit events. `--kill` ends
the worker's process by SIGKILL once half is done; in the end each row is there, once.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg

from benchmarks.load import postgres

TABLE = "CREATE TABLE IF NOT EXISTS bare_rows (number int PRIMARY KEY, external_ref text, subject text)"
POLL_SECONDS = 0.25
START_SECONDS_MAX = 120
CALL_SECONDS = 120


def file_of(rows: int) -> bytes:
    """Return the file: one made-up customer a row."""
    return b"".join(
        json.dumps(
            {
                "subject": {"type": "customer_id", "value": f"bench-{number}"},
                "external_ref": f"B-{number}",
            }
        ).encode()
        + b"\n"
        for number in range(rows)
    )


def bare(url: str, rows: int) -> float:
    """Return rows per second of one COPY, commit included."""
    with psycopg.connect(url) as connection:
        connection.execute(TABLE)
        connection.execute("TRUNCATE bare_rows")
        connection.commit()
        started = time.perf_counter()
        with connection.cursor().copy("COPY bare_rows FROM STDIN") as copy:
            for number in range(rows):
                copy.write_row((number, f"B-{number}", f"bench-{number}"))
        connection.commit()
        return rows / (time.perf_counter() - started)


def run(*words: str, **variables: str) -> str:
    """Run a module by command line, as anybody would; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *words], env=os.environ | variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@contextmanager
def api(home: Path, **variables: str) -> Iterator[httpx.Client]:
    """Run the API alone while in the block; yield a client that calls as an officer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run("app.cli.main", "migrate", **variables)
    run("app.cli.main", "keys", **variables)
    key = run("app.cli.main", "account", "officer", "--role", "privacy_officer", **variables)
    words = ["uvicorn", "--factory", "app.main:from_environment", "--port", str(port), "--log-level", "error"]
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env=os.environ | variables, stdout=log, stderr=log
        )
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {key.split()[0]}"},
        timeout=CALL_SECONDS,
        trust_env=False,
    )
    try:
        with client:
            _wait(client, process, home / "api.log")
            yield client
    finally:
        process.terminate()
        process.wait(CALL_SECONDS)


def _wait(client: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the API did not start:\n{log.read_text()}")


def received(
    client: httpx.Client, where: str, url: str, *, kill: bool, **variables: str
) -> tuple[float, int]:
    """Have a worker's stage receive every row; return for how many seconds one ran, and how many died."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT id FROM imports").fetchone()
    assert found is not None
    command = [sys.executable, "-m", "workers.pipeline", "import", str(found[0]), "--epoch", "0"]
    seconds, killed = 0.0, 0
    while (seen := client.get(where).json())["state"] != "done":
        started = time.perf_counter()
        worker = subprocess.Popen(command, env=os.environ | variables, stdin=subprocess.DEVNULL)
        while worker.poll() is None:
            time.sleep(POLL_SECONDS)
            if kill and not killed and client.get(where).json()["done"] * 2 >= seen["rows"]:
                worker.kill()
                worker.wait()
                killed += 1
        seconds += time.perf_counter() - started
    return seconds, killed


def main() -> int:
    """Measure both and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kill", action="store_true", help="kill the worker half way, once")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    content = file_of(given.rows)
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        home = Path(directory) / "home"
        home.mkdir(mode=0o700)
        with postgres(Path(directory) / "pg") as url:
            variables = {
                "LETHE_HOME": str(home),
                "LETHE_DATABASE_URL": url,
                "LETHE_IMPORT_ROWS_MAX": str(given.rows),
                "LETHE_IMPORT_BYTES_MAX": str(len(content)),
                "LETHE_READS_PER_MINUTE": "100000",
            }
            floor = bare(url, given.rows)
            with api(home, **variables) as client:
                headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/x-ndjson"}
                started = time.perf_counter()
                answer = client.post("/v1/imports", content=content, headers=headers)
                staging = time.perf_counter() - started
                assert answer.status_code == 202, answer.text
                where = answer.json()["links"]["self"]
                receiving, killed = received(client, where, url, kill=given.kill, **variables)
                assert client.get(where).json()["created"] == given.rows
            with psycopg.connect(url) as connection:
                found = connection.execute(
                    "SELECT count(*), count(DISTINCT external_ref) FROM erasure_requests"
                ).fetchone()
            assert found == (given.rows, given.rows), found
    rate = given.rows / (staging + receiving)
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "rows": given.rows,
        "copy_per_second": round(floor, 1),
        "staged_per_second": round(given.rows / staging, 1),
        "service_per_second": round(rate, 1),
        "ratio_staged": round(given.rows / staging / floor, 4),
        "ratio": round(rate / floor, 6),
        "workers_killed": killed,
        "each_row_once": True,
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
