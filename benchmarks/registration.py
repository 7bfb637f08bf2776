"""Registering 100,000 records, against reading and hashing the same file bare, in one run.

    python -m benchmarks.registration [--records N] [--rounds N] [--out FILE.json]

The floor: SHA-256 over the file's bytes, once. The service also checks every line, hashes content and
identifiers under keys, draws who is held back, and inserts all of it in one transaction; the time is
from the call to the state `ready`, as a caller sees it who asks twenty times a second. Sketching
follows in a pass of its own: what that takes is told apart. The service is
started by command line, as anybody would, on a directory of its own; LETHE_DATABASE_URL and
LETHE_REDIS_URL, where set, replace its embedded parts.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from benchmarks.service import service

RECORDS_PER_PERSON = 8
EMAIL = "person-{}@example.org"
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
                "subject": {"type": "email", "value": EMAIL.format(person)},
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


def registered(client: httpx.Client, path: Path, name: str) -> tuple[float, float]:
    """Return the seconds from the call to `ready`, and from there until near duplicates are found in it."""
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
    ready = time.perf_counter()
    while not client.get(answer.headers["Location"]).json()["sketched"]:
        if time.perf_counter() - ready > READ_SECONDS_MAX:
            raise SystemExit("the dataset is not sketched")
        time.sleep(POLL_SECONDS)
    return ready - started, time.perf_counter() - ready


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
        # Who asks twenty times a second would be turned away after half a minute.
        limits = {"LETHE_READS_PER_MINUTE": "1000000000"}
        with service(home, **limits) as running, running.client("engineer") as client:
            rounds = [
                (bare(path), *registered(client, path, f"people-{number}")) for number in range(given.rounds)
            ]
    seconds = sorted(mine for _, mine, _ in rounds)
    ratios = sorted(mine / floor for floor, mine, _ in rounds)
    sketching = sorted(after for *_, after in rounds)
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "records": given.records,
        "bytes": size,
        "bare_seconds": [round(floor, 3) for floor, *_ in rounds],
        "service_seconds": [round(mine, 2) for _, mine, _ in rounds],
        "sketching_seconds": [round(after, 2) for *_, after in rounds],
        "sketched_per_second": round(given.records / sketching[len(sketching) // 2]),
        "records_per_second": round(given.records / seconds[len(seconds) // 2]),
        "ratio_median": round(ratios[len(ratios) // 2], 1),
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
