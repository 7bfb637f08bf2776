"""A witness of another party: its own process, its own key, and a log that waits for it."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import processes
from app.storage.database import Transaction
from app.transparency import service
from app.transparency.policies import Policy
from tests.app.transparency.logs import append, policy_text, sequencer

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def witness(directory: Path, name: str, policy: Path, *, port: int = 0) -> Iterator[str]:
    """Run `lethe log witness`; yield the line that it prints for the log's policy."""
    words = ["-m", "app.cli.main", "log", "witness", name, "--policy", str(policy), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, *words, "--dir", str(directory)],
        env=processes.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
    finally:
        processes.stop(process, grace_seconds=5)
        assert process.stdout is not None
        process.stdout.close()


def test_a_log_waits_for_its_witness_and_the_witness_forgets_nothing(
    transaction: Transaction, tmp_path: Path
) -> None:
    known = tmp_path / "policy.txt"
    known.write_text(policy_text())
    name, home = "witness.example/w1", tmp_path / "witness"
    with witness(home, name, known) as line:
        chosen = Policy.parse(policy_text(line, quorum="W1"))
        port = int(re.findall(r":(\d+)$", line)[0])
        append(transaction, "a")
        assert service.sequence(transaction, sequencer(tmp_path, chosen)) == 1
    append(transaction, "b", "c")
    assert service.sequence(transaction, sequencer(tmp_path, chosen)) == 1, "nobody answers"
    started = time.time()
    with witness(home, name, known, port=port) as again:
        assert again == line, "the same key at the same address"
        assert service.sequence(transaction, sequencer(tmp_path, chosen)) == 3
    with transaction() as session:
        opened = chosen.opened(service.checkpoint(session))
    assert started - 2 < opened.cosigned["W1"] < time.time() + 2
