"""The client of load measurements: one process, many kept connections, each with one call under way.

    python -m benchmarks.caller < spec.json        prints what came of it as JSON

No HTTP library: calls are written before the clock starts, answers are read as far as their length. So the
client costs little beside what it measures, and says how much (`cpu_share`: of one core).
"""

import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

READ_BYTES = 1 << 18
SILENCE_SECONDS_MAX = 60


@dataclass(kw_only=True)
class Connection:
    """One connection, what of its answer is there, and when its call was sent."""

    socket: socket.socket
    sent: float = 0.0
    status: int = 0
    missing: int = -1
    """Bytes of the answer that are still to come; -1: its head is not complete."""
    head: bytes = b""

    def send(self, call: bytes) -> None:
        """Send the next call; it is small enough to go out at once."""
        self.missing, self.head = -1, b""
        self.sent = time.perf_counter()
        self.socket.sendall(call)

    def receive(self) -> bool:
        """Read what is there; return whether the answer is complete."""
        part = self.socket.recv(READ_BYTES)
        if not part:
            raise SystemExit("the server closed a connection")
        if self.missing < 0:
            self.head += part
            head, found, rest = self.head.partition(b"\r\n\r\n")
            if not found:
                return False
            self.status = int(head[9:12])
            self.missing = _length(head) - len(rest)
        else:
            self.missing -= len(part)
        return self.missing == 0


@dataclass(kw_only=True)
class Measured:
    """What came of the calls."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def said(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        took = sorted(self.took)
        return {
            "per_second": len(took) / self.seconds,
            "p50_ms": 1000 * took[len(took) // 2],
            "p99_ms": 1000 * took[len(took) * 99 // 100],
            "max_ms": 1000 * took[-1],
            "cpu_share": self.cpu_seconds / self.seconds,
            "statuses": {str(status): count for status, count in self.statuses.items()},
        }


def calls(spec: dict[str, Any]) -> Iterator[bytes]:
    """Yield the calls: reads go round the paths; writes are about somebody else each, with its own key.

    `who` is how people are named, and `first` the number of the first one.
    """
    head = "".join(f"{name}: {value}\r\n" for name, value in spec["headers"].items())
    paths: Sequence[str] = spec["paths"]
    for number in range(spec["requests"]):
        path = paths[number % len(paths)]
        start = f"{spec['method']} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}"
        if spec["method"] == "GET":
            yield f"{start}\r\n".encode()
            continue
        who = {"type": spec["who"]["type"], "value": spec["who"]["value"].format(spec["first"] + number)}
        body = json.dumps({"subject": who})
        about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        yield f"{start}{about}Idempotency-Key: {uuid4()}\r\n\r\n{body}".encode()


def measure(port: int, clients: int, all_calls: Sequence[bytes]) -> Measured:
    """Send every call, `clients` at a time, and wait for the answers."""
    measured, left = Measured(), iter(all_calls)
    with selectors.DefaultSelector() as selector:
        connections = []
        for _ in range(min(clients, len(all_calls))):
            connected = socket.create_connection(("127.0.0.1", port))
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(socket=connected)
            selector.register(connected, selectors.EVENT_READ, connection)
            connections.append(connection)
        started, cpu = time.perf_counter(), time.process_time()
        for connection in connections:
            connection.send(next(left))
        while len(measured.took) < len(all_calls):
            ready = selector.select(SILENCE_SECONDS_MAX)
            if not ready:
                raise SystemExit(f"no answer for {SILENCE_SECONDS_MAX} s")
            for key, _ in ready:
                found: Connection = key.data
                if not found.receive():
                    continue
                measured.took.append(time.perf_counter() - found.sent)
                measured.statuses[found.status] += 1
                if (call := next(left, None)) is not None:
                    found.send(call)
        measured.seconds = time.perf_counter() - started
        measured.cpu_seconds = time.process_time() - cpu
        for connection in connections:
            connection.socket.close()
    return measured


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise SystemExit("an answer does not say how long it is")


def main() -> int:
    """Read what to call from standard input, and print what came of it."""
    spec = json.load(sys.stdin)
    print(json.dumps(measure(spec["port"], spec["clients"], list(calls(spec))).said()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
