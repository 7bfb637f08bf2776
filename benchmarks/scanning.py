"""Seeking people in the texts of 100,000 records, against reading the same file as JSON, in one run.

    python -m benchmarks.scanning [--records N] [--rounds N] [--out FILE.json]

The floor: `json.loads` of every line. The text scan also checks the line, composes and folds the text and
seeks an address, a telephone number and a customer's number of each person, so many people at once. Then
the whole service, started by command line on a directory of its own: from the call that receives a request
to the state in which a person can approve it, as a caller sees it who asks twenty times a second; what a
worker takes to start is in it. LETHE_DATABASE_URL and LETHE_REDIS_URL, where set, replace embedded parts.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from app.erasure.scan.seeking import Seeker
from app.records.lines import parse
from benchmarks.registration import EMAIL, POLL_SECONDS, READ_SECONDS_MAX, registered, write
from benchmarks.service import service

PEOPLE_AT_ONCE = (1, 100, 1000)
PATH = "/v1/erasure-requests"


def bare(path: Path) -> float:
    """Return the seconds of the floor: every line as JSON."""
    started = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - started


def sought(path: Path, people: int) -> float:
    """Return the seconds of seeking so many people in every record."""
    seeker = Seeker(
        [
            identifier
            for person in range(people)
            for identifier in (
                ("email", EMAIL.format(person)),
                ("phone", f"+999{person:09}"),
                ("customer_id", f"C-{person:08}"),
            )
        ]
    )
    started = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            said = parse(line).passage
            seeker.found(said.prompt + said.completion)
    return time.perf_counter() - started


def received(client: httpx.Client, person: int) -> float:
    """Return the seconds from the call to where somebody can approve."""
    started = time.perf_counter()
    body = {"subject": {"type": "email", "value": EMAIL.format(person)}}
    made = client.post(PATH, json=body, headers={"Idempotency-Key": str(uuid4())})
    made.raise_for_status()
    while time.perf_counter() - started < READ_SECONDS_MAX:
        shown: dict[str, Any] = client.get(f"{PATH}/{made.json()['id']}").json()
        if shown["state"] != "triage":
            return time.perf_counter() - started
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the request is still in triage: {shown['indexes']}, {shown['attention']}")


def main() -> int:
    """Measure all of it and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scanning", description=__doc__.splitlines()[0]
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
        bare(path)  # from here on the file is in the page cache
        floor = [bare(path) for _ in range(given.rounds)]
        seconds = {
            people: statistics.median(sought(path, people) for _ in range(given.rounds))
            for people in PEOPLE_AT_ONCE
        }
        with service(home, LETHE_READS_PER_MINUTE="1000000000") as running:
            with running.client("engineer") as client:
                registered(client, path, "people")
            with running.client("officer") as client:
                whole = [received(client, person) for person in range(given.rounds)]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "records": given.records,
        "bytes": size,
        "bare_records_per_second": round(given.records / statistics.median(floor)),
        "sought": {
            people: {
                "records_per_second": round(given.records / took),
                "mb_per_second": round(size / took / 1e6, 1),
            }
            for people, took in seconds.items()
        },
        "service_seconds": [round(each, 2) for each in whole],
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
