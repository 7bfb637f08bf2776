"""Registering 100,000 records, against reading and hashing the same file bare, in one run.

    python -m benchmarks.registration [--records N] [--rounds N] [--out FILE.json]

The floor: SHA-256 over the file's bytes, once. The service also checks every line, hashes content and
identifiers under keys, draws who is held back, and inserts all of it in one transaction; the time is
from the call to the state `ready`, as a caller sees it who asks twenty times a second. The service is
started by command line, as anybody would, on a directory of its own; LETHE_DATABASE_URL and
LETHE_REDIS_URL, where set, replace its embedded parts.
"""

import argparse
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

RECORDS_PER_PERSON = 8
START_SECONDS_MAX = 120
READ_SECONDS_MAX = 600
POLL_SECONDS = 0.05
CHUNK_BYTES = 1024 * 1024


def write(path: Path, records: int, *, seed: int = 1) -> None:
    """Write a file of records about people who do not exist, some 340 bytes each."""
    draw = random.Random(seed)  # noqa: S311  made-up people, and the same ones every time
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            person = number // RECORDS_PER_PERSON
            line = {
                "id": f"r-{number}",
                "subject": {"type": "email", "value": f"person-{person}@example.org"},
                "prompt": f"What is known of person {person}?",
                "completion": " " + "".join(draw.choices("abcdefghijklmnop ", k=200)),
            }
            file.write(json.dumps(line) + "\n")


def bare(path: Path) -> float:
    """Return the seconds of the floor: read and hash."""
    started = time.perf_counter()
    running = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            running.update(chunk)
    return time.perf_counter() - started


@contextmanager
def service(home: Path) -> Iterator[httpx.Client]:
    """Start the whole service on `home`; yield a client that may register."""
    port = _free_port()
    command = [sys.executable, "-m", "app.cli.main", "up", "--home", str(home), "--port", str(port)]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **_ports()})
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, home / "up.log")
        keys: dict[str, str] = json.loads((home / "credentials.json").read_text())["keys"]
        with httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {keys['engineer']}"}, timeout=60, trust_env=False
        ) as client:
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def registered(client: httpx.Client, path: Path, name: str) -> float:
    """Return the seconds from the call to `ready`."""
    started = time.perf_counter()
    body = {"name": name, "uri": str(path)}
    answer = client.post("/v1/datasets", json=body, headers={"Idempotency-Key": str(uuid4())})
    answer.raise_for_status()
    while time.perf_counter() - started < READ_SECONDS_MAX:
        shown: dict[str, Any] = client.get(answer.headers["Location"]).json()
        if shown["state"] != "registering":
            break
        time.sleep(POLL_SECONDS)
    if shown["state"] != "ready":
        raise SystemExit(f"the dataset is {shown['state']}: {shown['failure']}")
    return time.perf_counter() - started


def main() -> int:
    """Measure both, alternating, and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.registration", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        path, home = Path(directory) / "people.jsonl", Path(directory) / "home"
        home.mkdir(mode=0o700)
        write(path, given.records)
        size = path.stat().st_size
        bare(path)  # from here on the file is in the page cache, for both
        with service(home) as client:
            rounds = [
                (bare(path), registered(client, path, f"people-{number}")) for number in range(given.rounds)
            ]
    seconds = sorted(mine for _, mine in rounds)
    ratios = sorted(mine / floor for floor, mine in rounds)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "records": given.records,
        "bytes": size,
        "bare_seconds": [round(floor, 3) for floor, _ in rounds],
        "service_seconds": [round(mine, 2) for _, mine in rounds],
        "records_per_second": round(given.records / seconds[len(seconds) // 2]),
        "ratio_median": round(ratios[len(ratios) // 2], 1),
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the service did not start:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the service is not ready after {START_SECONDS_MAX} s:\n{log.read_text()}")


def _ports() -> dict[str, str]:
    """Return the ports of the model server, so that a stack that runs already is left alone."""
    return {"LETHE_MODEL_PORT": str(_free_port()), "LETHE_MODEL_ADMIN_PORT": str(_free_port())}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
