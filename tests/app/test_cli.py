"""The command line against the real API: what is printed, what is refused, how it ends."""

import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.cli import client, main
from app.config import Settings
from app.embedded import accounts
from app.storage.database import Transaction
from app.tables import Dataset

Cli = Callable[..., tuple[int, str, str]]


class Quiet(uvicorn.Server):
    """A server in a thread of the test's: signals are not its business."""

    def install_signal_handlers(self) -> None:
        """Leave the signals alone."""


@pytest.fixture
def url(app: FastAPI, settings: Settings) -> Iterator[str]:
    """Serve the test's API on loopback; its accounts are those of `lethe up`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"public_url": f"http://127.0.0.1:{port}"})
        accounts.ensure(settings)
        server = Quiet(uvicorn.Config(app, log_config=None, lifespan="on"))
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        with capture_logs():  # the API is in this process, and its log is not what is tested
            yield settings.public_url
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def cli(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return what runs a command line: exit code, stdout, stderr."""
    monkeypatch.setenv("LETHE_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("LETHE_API_KEY", "LETHE_URL", "LETHE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lethe", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), said.out, said.err

    return run


@pytest.mark.parametrize(
    "words",
    [["--help"], ["up", "--help"], ["request", "create", "--help"], ["certificate", "check", "--help"]],
)
def test_help_has_examples(cli: Cli, words: list[str]) -> None:
    code, out, _ = cli(*words)
    assert code == 0
    assert "lethe" in out.lower()
    assert len(words) < 2 or "Example: " in out


def test_a_dataset_is_registered_listed_and_shown(cli: Cli, url: str, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text("{}\n")
    code, out, err = cli("dataset", "add", str(file), "--name", "people", "--no-wait")
    assert (code, err) == (0, "")
    assert "registering" in out
    assert str(file) in out
    code, out, _ = cli("--json", "dataset", "list")
    [listed] = json.loads(out)
    assert (listed["name"], listed["state"]) == ("people", "registering")
    assert cli("dataset", "show", "people")[0] == 0
    code, _, err = cli("dataset", "show", "nobody")
    assert (code, err) == (1, "lethe: there is no dataset nobody\n")


def test_a_failed_registration_names_the_line(
    cli: Cli, url: str, transaction: Transaction, tmp_path: Path
) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text("{}\n")

    def fail() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with transaction() as session:
                row = session.query(Dataset).one_or_none()
                if row is not None:
                    row.state, row.failure = "failed", {"code": "malformed-json", "line": 17, "pointer": ""}
                    return
            time.sleep(0.05)

    worker = threading.Thread(target=fail)
    worker.start()
    code, _, err = cli("dataset", "add", str(file), "--name", "people")
    worker.join()
    assert code == 1
    assert err.endswith("lethe: dataset people was not registered: malformed-json in line 17\n")


def test_a_refusal_is_plain_and_repeats_nothing_personal(cli: Cli, url: str) -> None:
    code, out, err = cli("request", "create", "--subject", "colour of hair=ada@example.org")
    assert (code, out) == (1, "")
    assert "/subject/0/type" in err
    assert "ada@example.org" not in err


def test_a_request_is_sent_shown_and_listed(cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        def readline(self) -> str:
            return "ada@example.org\n"

    monkeypatch.setattr("sys.stdin", Stdin())
    code, out, _ = cli("--json", "request", "create", "--email", "-", "--external-ref", "T-1")
    assert code == 0
    receipt = json.loads(out)
    assert receipt["id"].startswith("er_")
    code, out, _ = cli("request", "show", receipt["id"])
    assert "T-1" in out
    assert cli("request", "list", "--state", receipt["state"])[1].count(receipt["id"]) == 1
    code, _, err = cli("request", "approve", receipt["id"])
    assert code == 1
    assert err.startswith("lethe: ")


def test_an_unknown_model_gets_no_job(cli: Cli, url: str) -> None:
    code, _, err = cli("job", "run", "nothing")
    assert (code, err) == (1, "lethe: there is no model of this name (not-found)\n")


def test_a_key_without_the_scope_is_told_so(cli: Cli, url: str) -> None:
    code, _, err = cli("--as", "officer", "job", "run", "nothing")
    assert (code, err) == (1, "lethe: this key lacks the scope jobs:run (scope-missing)\n")


def test_nobody_answering_has_its_own_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_API_KEY", "lethe_nobody")
    code, _, err = cli("--url", "http://127.0.0.1:9", "job", "list")
    assert code == client.EXIT_NOBODY
    assert "is `lethe up` running?" in err


def test_without_a_key_one_is_told_where_to_get_it(cli: Cli) -> None:
    code, _, err = cli("request", "list")
    assert code == 1
    assert "LETHE_API_KEY" in err


def test_what_is_typed_wrongly_ends_with_2(cli: Cli, url: str) -> None:
    assert cli("request", "create", "--subject", "no equals sign")[0] == 2
    assert cli("dataset", "add", "/nowhere.jsonl", "--name", "x")[0] == 2
    assert cli("requests")[0] == 2


def test_a_bundle_that_is_none_is_refused_by_the_checker(cli: Cli, tmp_path: Path) -> None:
    bundle = tmp_path / "lethe.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("certificate.dsse.json", "{}")
    code, out, _ = cli("certificate", "check", str(bundle))
    assert code != 0
    assert "failed" in out
    code, out, _ = cli("certificate", "check", str(bundle), "--json")
    assert json.loads(out)["failed"] == 2
    assert cli("certificate", "check", str(tmp_path / "none.zip"))[0] != 0


def test_the_first_account_of_a_production_installation(
    cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", database_url)
    assert cli("keys")[0] == 0
    code, out, _ = cli("account", "anna", "--role", "privacy_officer")
    assert code == 0
    assert out.strip().startswith("lethe_")
    code, _, err = cli("account", "ben", "--role", "king")
    assert code == 2
    assert "there is no role king" in err


def test_migrate_says_where_the_database_is(
    cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("migrate")[0] == 1
    monkeypatch.setenv("LETHE_DATABASE_URL", database_url)
    code, out, _ = cli("migrate")
    assert code == 0
    assert "revision" in out
