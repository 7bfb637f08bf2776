"""A receiver on loopback: keeps what it is sent, and answers what a test tells it to."""

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Call:
    """One call: path, headers by their lower-case names, and the exact body."""

    path: str
    headers: Mapping[str, str]
    body: bytes


Answer = Callable[[Call], tuple[int, Mapping[str, str]]]


@dataclass
class Receiver:
    """What was received, and what is answered."""

    url: str
    calls: list[Call] = field(default_factory=list)
    answer: Answer = lambda _call: (204, {})

    def answers(self, status: int, **headers: str) -> None:
        """Answer this from now on."""
        self.answer = lambda _call: (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )


@contextmanager
def receiver(*, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Serve while in the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            call = Call(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            found.calls.append(call)
            status, headers = found.answer(call)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A caller that hangs up is no error of ours."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    found = Receiver(f"{scheme}://{host}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
