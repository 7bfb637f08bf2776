"""A time stamp authority for tests: `openssl ts` behind HTTP on this computer."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from app.certificates.stamps import TYPE_GIVEN, Authority

CONFIGURATION = """\
[ tsa ]
default_tsa = t
[ t ]
serial = serial
crypto_device = builtin
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_chain = no
ess_cert_id_alg = sha256
[ ext ]
extendedKeyUsage = critical,timeStamping
keyUsage = critical,digitalSignature
basicConstraints = critical,CA:false
"""
NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
COMMANDS = (
    f"req -x509 {NEW_KEY} -keyout root.key -out root.pem -subj /CN=root -days 3650",
    f"req {NEW_KEY} -keyout tsa.key -out tsa.csr -subj /CN=tsa",
    "x509 -req -in tsa.csr -CA root.pem -CAkey root.key -CAcreateserial -out tsa.pem -extfile tsa.cnf -extensions ext",
)


def openssl(directory: Path, command: str) -> None:
    """Run an openssl command there."""
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


def lay_out(directory: Path) -> Path:
    """Make the root, the authority's certificate and its configuration; return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tsa.cnf").write_text(CONFIGURATION)
    (directory / "serial").write_text("01\n")
    for command in COMMANDS:
        openssl(directory, command)
    return directory


@contextmanager
def serving(directory: Path) -> Iterator[Authority]:
    """Yield the authority while it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            (directory / "query.tsq").write_bytes(self.rfile.read(length))
            openssl(directory, "ts -reply -config tsa.cnf -queryfile query.tsq -out reply.tsr")
            answer = (directory / "reply.tsr").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", TYPE_GIVEN)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        yield Authority.at(url, directory / "root.pem")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
