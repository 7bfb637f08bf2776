"""Ten thousand requests from fifty clients at once, through an API that is killed again and again: each once.

A client sends a request under one key until it has its receipt. Some hang up before they are answered, some
send twice at once; the API dies by SIGKILL in between, and the stack starts it again.
"""

import http.client
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.config import Settings
from app.embedded import addresses
from app.embedded.stack import Stack, pids, stack

pytestmark = pytest.mark.slow

CLIENTS, EACH = 50, 200
KILLED_AT = (0.2, 0.4, 0.6, 0.8)
"""Of all requests so many have a receipt; a stack starts a part five times in ten minutes."""
HANGS_UP, SENDS_TWICE = 0.05, 0.05
"""How often a client goes away unanswered, or sends the same on two connections."""
PAUSE_SECONDS, PATIENCE_SECONDS = 0.2, 1200
REQUESTS = "/v1/erasure-requests"
STEPS = ["request.received", "request.moved", "request.located", "request.moved"]


@pytest.fixture
def running() -> Iterator[Stack]:
    # Short: a socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="lethe-many-") as home:
        settings = Settings(home=Path(home), reads_per_minute=10**9, writes_per_minute=10**9)
        with stack(addresses.free_ports(settings)) as started:
            yield started


@dataclass
class Clients:
    """Fifty people's software, each with requests of its own, and what became of them."""

    port: int
    token: str = field(repr=False)
    receipts: dict[str, str] = field(default_factory=dict)
    """Of each key, the id of the request that its receipt names."""
    unlike: list[str] = field(default_factory=list)
    """Keys that were answered in two ways."""
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, number: int) -> None:
        """Send this client's requests, one after the other, each until it has its receipt."""
        chance, until = random.Random(number), time.monotonic() + PATIENCE_SECONDS
        for each in range(EACH):
            key = f"client-{number}-{each}"
            while key not in self.receipts and time.monotonic() < until:
                if not self._sent(key, chance.random()):
                    time.sleep(PAUSE_SECONDS)

    def _sent(self, key: str, luck: float) -> bool:
        """Send one request in the way that chance has it; return whether there is a receipt now."""
        try:
            with closing(self._send(key)) as first:
                if luck < HANGS_UP:
                    self.seen["hung up"] += 1
                    return False
                if luck < HANGS_UP + SENDS_TWICE:
                    self.seen["sent twice"] += 1
                    with closing(self._send(key)) as second:
                        self._read(key, second)
                return self._read(key, first)
        except (OSError, http.client.HTTPException):
            self.seen["no answer"] += 1
            return False

    def _send(self, key: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps({"subject": {"type": "customer_id", "value": key}, "external_ref": key})
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key}
        try:
            connection.request("POST", REQUESTS, body, headers | {"Content-Type": "application/json"})
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, key: str, connection: http.client.HTTPConnection) -> bool:
        answer = connection.getresponse()
        said = json.loads(answer.read())
        with self.lock:
            self.seen[f"{answer.status}{' again' if answer.getheader('Idempotency-Replayed') else ''}"] += 1
            if answer.status == 201 and self.receipts.setdefault(key, said["id"]) != said["id"]:
                self.unlike.append(key)
        # The key may be in use by the call that was hung up on, or the database just away: later.
        assert answer.status in {201, 409, 503}, said
        return answer.status == 201


def test_ten_thousand_at_once_each_once(running: Stack) -> None:
    clients = Clients(running.settings.port, running.keys["officer"])
    threads = [threading.Thread(target=clients.run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    killed = _kill_on_the_way(running, clients, threads)
    for thread in threads:
        thread.join()

    assert len(killed) == len(KILLED_AT)
    assert len(clients.receipts) == CLIENTS * EACH
    assert clients.unlike == []
    assert clients.seen["hung up"] > 0
    assert clients.seen["sent twice"] > 0
    assert clients.seen["201 again"] > 0, "some receipts were lost on their way, and shown once more"

    requests = _rows(running, "SELECT external_ref, encode(subject_macs[1], 'hex') FROM erasure_requests")
    assert sorted(key for key, _ in requests) == sorted(clients.receipts)
    assert len({mac for _, mac in requests}) == CLIENTS * EACH
    events = _rows(running, "SELECT subject_id, kind FROM audit_events ORDER BY seq")
    told: dict[str, list[str]] = {}
    for subject, kind in events:
        told.setdefault(str(subject), []).append(kind)
    assert all(told[request] == STEPS for request in clients.receipts.values())
    assert sum(kind == "request.received" for _, kind in events) == CLIENTS * EACH
    assert _verified(running)


def _kill_on_the_way(running: Stack, clients: Clients, threads: list[threading.Thread]) -> list[int]:
    """Kill the API each time that so many requests have their receipt; return whom."""
    killed: list[int] = []
    for share in KILLED_AT:
        while len(clients.receipts) < share * CLIENTS * EACH and any(each.is_alive() for each in threads):
            time.sleep(0.02)
        process = pids(running.settings.home)["api"]
        if process not in killed:
            os.kill(process, signal.SIGKILL)
            killed.append(process)
    return killed


def _rows(running: Stack, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(str(running.settings.database_url)) as connection:
        return connection.execute(query.encode()).fetchall()


def _verified(running: Stack) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", running.settings.port, timeout=60)) as connection:
        headers = {"Authorization": f"Bearer {running.keys['officer']}"}
        connection.request("POST", "/v1/audit/verify", headers=headers)
        return bool(json.loads(connection.getresponse().read())["valid"])
