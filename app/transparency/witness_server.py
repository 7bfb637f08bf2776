"""A witness as a small server: one path, POST only, plain HTTP behind whatever speaks TLS.

Needs nothing but its key, its policy (which logs) and a directory; another party runs it, because a
log that witnesses itself proves nothing.
"""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from app.transparency.witnesses import REQUEST_BYTES_MAX, Answer, Witness

PATH = "/add-checkpoint"
CALL_SECONDS = 10.0


class Server(ThreadingHTTPServer):
    """Answers on one address, a thread a call; `server_address` says which port it got."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        """Listen; `serve_forever` answers."""
        self.witness = witness
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    """Reads one bounded body and hands it to the witness."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lethe-witness", ""
    timeout = CALL_SECONDS
    server: Server

    def do_POST(self) -> None:
        """Answer a call."""
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            self._send(Answer(status=404), close=True)
        elif not length.isdigit() or int(length) > REQUEST_BYTES_MAX:
            self._send(Answer(status=413), close=True)
        else:
            self._send(self.server.witness.add_checkpoint(self.rfile.read(int(length))))

    def _send(self, answer: Answer, *, close: bool = False) -> None:
        self.send_response(answer.status, HTTPStatus(answer.status).phrase)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if close:  # what was not read would be taken for the next call
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
        """Write no line a call: what callers send is theirs."""
