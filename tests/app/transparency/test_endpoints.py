"""The log over HTTP and on the command line: public, cacheable, and by the paths that other tools know."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.cli import main
from app.config import Settings
from app.storage.database import Transaction
from app.transparency import keys, monitor, service, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.mark import LogRolledBack
from app.transparency.policies import Policy
from app.transparency.proofs import Proof
from app.transparency.tiles import entries_of, hashes_of
from tests.app.transparency.logs import NOW, append, entry
from tests.app.transparency.test_service import forget

FOR_EVER = "public, max-age=31536000, immutable"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def log(settings: Settings, transaction: Transaction) -> Policy:
    """Return the policy of a log of 260 entries, as an installation has it."""
    made = keys.generate(settings.keys, issuer=settings.issuer, at=NOW)
    append(transaction, *range(260))
    grow(settings, transaction)
    return made


def grow(settings: Settings, transaction: Transaction, *names: object) -> int:
    append(transaction, *names)
    by = service.sequencer(keys_directory=settings.keys, storage=settings.storage, clock=lambda: NOW)
    return service.sequence(transaction, by)


def test_everybody_can_read_and_keep_it(log: Policy, client: TestClient) -> None:
    answer = client.get("/log/checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=5"
    found = log.opened(answer.content).checkpoint
    assert (found.origin, found.size) == ("issuer.example/log/2026", 260)
    leaves = [tree.leaf_hash(entry(i)) for i in range(260)]
    for path, expected in (
        ("tile/0/000", leaves[:256]),
        ("tile/0/001.p/4", leaves[256:]),
        ("tile/0/001.p/2", leaves[256:258]),
        ("tile/1/000.p/1", [tree.root(leaves[:256])]),
    ):
        answer = client.get(f"/log/{path}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert (answer.headers["cache-control"], answer.headers["access-control-allow-origin"]) == (
            FOR_EVER,
            "*",
        )
        assert hashes_of(answer.content, width=len(expected)) == expected
    bundle = client.get("/log/tile/entries/001.p/4")
    assert entries_of(bundle.content, width=4) == [entry(i) for i in range(256, 260)]
    assert Policy.parse(client.get("/log/policy").text) == log
    proof = client.get(f"/log/proof/{leaves[7].hex()}")
    assert proof.headers["cache-control"] == FOR_EVER
    assert Proof.parse(proof.content).verify(entry(7), log).checkpoint == found
    path = client.get("/log/inclusion", params={"index": 7, "size": 9}).json()["hashes"]
    tree.verify_inclusion(7, 9, leaves[7], [bytes.fromhex(each) for each in path], tree.root(leaves[:9]))
    path = client.get("/log/consistency", params={"first": 9, "second": 260}).json()["hashes"]
    hashes = [bytes.fromhex(each) for each in path]
    tree.verify_consistency(9, 260, tree.root(leaves[:9]), found.root, hashes)


def test_what_is_not_there_is_not_kept(log: Policy, client: TestClient) -> None:
    assert log.logs
    for path, status in (
        ("tile/0/002", 404),
        ("tile/0/001.p/5", 404),
        ("tile/0/0000", 404),
        ("tile/words", 404),
        ("proof/" + "0" * 64, 404),
        ("proof/ada@example.org", 422),
        ("inclusion?index=9&size=9", 422),
        ("inclusion?index=0&size=261", 404),
        ("consistency?first=9&second=8", 422),
        ("consistency?first=0&second=8", 422),
    ):
        answer = client.get(f"/log/{path}")
        assert answer.status_code == status, path
        assert "cache-control" not in answer.headers
        assert "ada@" not in answer.text


def test_before_anything_is_logged_it_says_so(client: TestClient) -> None:
    assert client.get("/log/checkpoint").json()["code"] == "log-empty"
    assert client.get("/log/policy").json()["code"] == "no-log"


# At start --------------------------------------------------------------------------------------------


def test_the_api_does_not_start_behind_what_was_signed(
    log: Policy, app: FastAPI, settings: Settings, database_url: str
) -> None:
    assert log.logs
    with TestClient(app):
        pass
    forget(database_url, 100)
    with pytest.raises(LogRolledBack, match="100 entries of the log and 260 were signed"), TestClient(app):
        pass
    assert service.mark_of(settings.storage).path.is_file()


def test_it_starts_without_a_log_and_without_a_database(app: FastAPI, settings: Settings) -> None:
    with TestClient(app):
        pass
    keys.generate(settings.keys, issuer=settings.issuer, at=NOW)
    with TestClient(app):
        pass


def test_a_database_that_is_away_keeps_nobody_from_starting(
    log: Policy, settings: Settings, tmp_path: Path
) -> None:
    from app.main import create_app  # noqa: PLC0415  tests of pure rules load no web framework

    assert log.logs
    away = settings.model_copy(update={"database_url": f"postgresql:///x?host={tmp_path}"})
    with capture_logs() as logged, TestClient(create_app(away)):
        pass
    assert [each["event"] for each in logged] == ["the log was not compared with its mark"]


# On the command line ------------------------------------------------------------------------------------


class Quiet(uvicorn.Server):
    """A server in a thread of the test's: signals are not its business."""

    def install_signal_handlers(self) -> None:
        """Leave the signals alone."""


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """Serve the test's API on loopback; yield the address of its log."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Quiet(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        with capture_logs():
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/log"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def cli(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return what runs a command line: exit code, stdout, stderr."""
    monkeypatch.setenv("LETHE_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lethe", "log", *map(str, words)])
        try:
            main.main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return int(str(code or 0)), said.out, said.err

    return run


def test_a_log_is_watched_from_the_command_line(
    log: Policy, url: str, cli: Cli, settings: Settings, transaction: Transaction, tmp_path: Path
) -> None:
    assert log.logs
    state, policy = tmp_path / "state.json", settings.keys / keys.POLICY_FILE
    code, said, err = cli("monitor", url, "--state", state)
    assert (code, "260 (first look)" in said, "compare it" in err) == (0, True, True)
    grow(settings, transaction, "more")
    code, said, err = cli("monitor", url, "--state", state, "--policy", policy)
    assert (code, "261 (260 entries at the last look)" in said, err) == (0, True, "")
    assert "new erasure-certificate/v1  1" in said
    kept = json.loads(state.read_bytes())
    forged = monitor.Kept(policy=kept["policy"], note=forge(settings, 300), frontier=())
    forged.write(state)
    code, _, err = cli("monitor", url, "--state", state)
    assert code == 1
    assert "ALARM (rolled-back): the log shows 261 entries and had shown 300" in err
    state.write_text("{}")
    assert cli("monitor", url, "--state", state)[0] == 1
    assert cli("monitor", "http://127.0.0.1:9", "--state", tmp_path / "fresh")[0] == 3


def forge(settings: Settings, size: int) -> bytes:
    """Return what the log's own key would have signed: whoever holds it can fork, and is found out."""
    signer = keys.open_log(settings.keys)
    return signer.sign(Checkpoint(origin=signer.key.name, size=size, root=bytes(32))).encode()


def test_a_log_is_shown_and_a_proof_compared(
    log: Policy, url: str, cli: Cli, settings: Settings, tmp_path: Path
) -> None:
    code, said, _ = cli("show", url, "--entries", "2")
    assert (code, "issuer.example/log/2026" in said, "operator-signed log" in said) == (0, True, True)
    assert said.count('{"kind":"erasure-certificate/v1"') == 2
    proof = tmp_path / "certificate.tlog-proof"
    proof.write_bytes(httpx.get(f"{url}/proof/{tree.leaf_hash(entry(3)).hex()}").content)
    assert Proof.parse(proof.read_bytes()).verify(entry(3), log)
    code, said, _ = cli("compare", proof, url)
    assert (code, said) == (0, "the log of 260 entries continues the one of the proof\n")
    forged = Proof(index=0, hashes=(), checkpoint=forge(settings, 200))
    proof.write_bytes(forged.encode())
    code, _, err = cli("compare", proof, url, "--policy", settings.keys / keys.POLICY_FILE)
    assert (code, "ALARM (edited)" in err) == (1, True)
    assert cli("compare", tmp_path / "none", url)[0] == 2


def test_an_exported_log_is_a_log_and_brings_back_what_was_lost(
    log: Policy,
    url: str,
    cli: Cli,
    settings: Settings,
    transaction: Transaction,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = tmp_path / "files"
    assert cli("export", files, url)[:2] == (0, f"260 entries, 5 new files in {files}\n")
    grow(settings, transaction, "one more")
    assert "261 entries, 2 new files" in cli("export", files, url)[1]
    seen = monitor.watch(lambda path: (files / path).read_bytes(), tmp_path / "state", policy=None)
    assert (seen.size, seen.origin) == (261, log.logs[0].key.name)
    forget(database_url, 30)
    monkeypatch.setenv("LETHE_DATABASE_URL", database_url)
    assert cli("recover", files)[:2] == (0, "231 entries are back\n")
    assert grow(settings, transaction, "and on") == 262


def test_every_command_says_what_it_is_for(cli: Cli) -> None:
    for command in ("show", "monitor", "compare", "witness", "export", "recover"):
        code, said, _ = cli(command, "--help")
        assert (code, "Example: lethe log" in said) == (0, True), command
