"""The command line against the real API: what is printed, what is refused, how it ends."""

import csv
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvicorn
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.auth import service as auth
from app.cli import client, main
from app.clock import system_clock
from app.config import Settings
from app.embedded import accounts
from app.erasure import calendars
from app.erasure.identity import service as identity
from app.erasure.identity.courier import courier
from app.http import ids
from app.intake.bulk import service as bulk
from app.records import content, screening
from app.storage.database import Transaction
from app.tables import Dataset, Import, Suppression
from tests.fixtures.api import StillClock
from tests.fixtures.post import PostOffice

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


def test_a_request_is_doubted_put_off_held_exempted_and_refused(cli: Cli, url: str, model: UUID) -> None:
    def made(*words: str) -> dict[str, Any]:
        code, out, err = cli("--json", *words)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    er = made("request", "create", "--email", "ada@example.org", "--doubted")["id"]
    assert made("request", "identify", er, "--by", "document")["records_matched"] == 2
    made("request", "pause", er)
    assert "clock stands still" in cli("request", "show", er)[1]
    made("request", "resume", er)
    assert cli("request", "resume", er)[0] == 1
    put_off = made("request", "extend", er, "--reason", "complexity", "--told-on", "2026-11-21")
    assert put_off["due_on"] == "2027-02-22"
    hold = made("hold", "place", "--request", er, "--reason", "litigation")["id"]
    assert hold in cli("hold", "list", "--active")[1]
    assert er in cli("request", "list", "--on-hold", "--due")[1]
    assert cli("--as", "officer", "hold", "lift", hold)[0] == 1
    made("hold", "lift", hold)
    first, _ = json.loads(cli("--json", "request", "show", er, "--records")[1])
    made("request", "exempt", er, "--ground", "17.3.b", "--record", first["id"])
    assert made("request", "exempt", er)["record_set_hash"]
    assert made("request", "send-back", er)["state"] == "triage"
    assert made("request", "resolve", er)["state"] == "awaiting_approval"
    assert "1" in cli("request", "search", "--email", "ada@example.org")[1]
    assert cli("request", "list", "--overdue")[1] == "nothing yet\n"
    ended = made("request", "reject", er, "--ground", "12.5", "--told-on", "2026-11-21")
    assert ended["state"] == "rejected"
    assert "request.rejected" in cli("request", "show", er, "--events")[1]


def test_a_person_is_sent_a_code_and_proves_with_it(
    cli: Cli, url: str, app: FastAPI, model: UUID, office: PostOffice, settings: Settings, clock: StillClock
) -> None:
    told = {"smtp_url": f"smtp://127.0.0.1:{office.port}", "smtp_from": "privacy@lethe.example"}
    sender = identity.Sender(
        transaction=app.state.transaction,
        courier=courier(settings.model_copy(update=told), clock=clock),
        secret=app.state.keyring.api,
        clock=clock,
    )
    code, out, _ = cli("--json", "request", "create", "--email", "ada@example.org", "--doubted")
    assert code == 0
    er = json.loads(out)["id"]
    identity.deliver(sender)
    clock.advance(minutes=1)
    assert cli("request", "challenge", er)[1] == "counts for      15 minutes\nleft this hour  1\n"
    identity.deliver(sender)
    assert "code-refused" in cli("request", "prove", er, "--code", office.codes[0])[2]
    assert "awaiting_approval" in cli("request", "prove", er, "--code", office.codes[1])[1]


def test_somebody_is_shut_out_and_let_in(cli: Cli, url: str, transaction: Transaction) -> None:
    assert cli("sessions", "list")[1] == "nothing yet\n"
    with transaction() as session:
        found = auth.find_principal(session, "reviewer")
        assert found is not None
        reviewer = ids.encode("pr", found.id)
    assert "shut out since" in cli("sessions", "shut-out", reviewer)[1]
    assert "unauthenticated" in cli("--as", "reviewer", "request", "list")[2]
    assert "shut out since" not in cli("sessions", "let-in", reviewer)[1]
    assert cli("--as", "reviewer", "request", "list")[0] == 0
    assert "not-found" in cli("sessions", "end", reviewer.replace("pr_", "ses_"))[2]


def test_an_unknown_model_gets_no_job(cli: Cli, url: str) -> None:
    code, _, err = cli("job", "run", "nothing")
    assert (code, err) == (1, "lethe: there is no model of this name (not-found)\n")


def test_an_unknown_model_is_not_compacted(cli: Cli, url: str) -> None:
    for words in (("--show",), ("--no-wait",)):
        code, _, err = cli("model", "compact", "nothing", *words)
        assert (code, err) == (1, "lethe: there is no model of this name (not-found)\n")


def test_a_model_says_how_far_it_is_from_its_anchor_and_what_it_will_not_do(
    cli: Cli, url: str, model: UUID
) -> None:
    code, out, _ = cli("model", "compact", "assistant", "--show")
    assert code == 0
    assert "requests outstanding" in out
    code, out, _ = cli("--json", "model", "compact", "assistant", "--show")
    assert (json.loads(out)["deltas"], json.loads(out)["reason"]) == (0, None)
    code, _, err = cli("model", "compact", "assistant")
    assert code == 1
    assert err.endswith("all that was erased is exact (nothing-outstanding)\n")


def test_a_file_of_requests_is_tried_imported_acted_on_and_exported(
    cli: Cli, url: str, transaction: Transaction, model: UUID, tmp_path: Path
) -> None:
    file, kept, requests = (tmp_path / name for name in ("in.csv", "rows.csv", "requests.csv"))
    header = cli("request", "template")[1].strip()
    file.write_text(f"{header}\nT-1,ada@example.org,,,,,,,\nT-2,no address,,,,,,,\n")
    code, _, err = cli("request", "import", str(file), "--dry-run")
    assert (code, "line 3: email-form at /email" in err) == (1, True)
    assert "no address" not in err

    def work() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with transaction() as session:
                found = session.query(Import).one_or_none()
            if found is not None:
                calendar = calendars.load("EU", "UTC")
                bulk.work(
                    transaction, found.id, calendar=calendar, rules="without-text-scan", clock=system_clock
                )
                return
            time.sleep(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    code, out, err = cli("request", "import", str(file), "--rows", str(kept))
    worker.join()
    assert (code, "1 of 2 rows cannot be requests" in err) == (1, True)
    rows = list(csv.DictReader(kept.read_text().splitlines()))
    assert [row["outcome"] for row in rows] == ["created", "invalid"]
    imported = next(word for word in out.split() if word.startswith("imp_"))
    assert rows[0]["request"] in cli("request", "outcomes", imported, "--outcome", "created")[1]
    assert cli("request", "export", "--out", str(requests))[0] == 0
    assert [row["external_ref"] for row in csv.DictReader(requests.read_text().splitlines())] == ["T-1"]
    words = ("request", "bulk", "approve", "--state", "awaiting_approval", "--expect")
    assert cli(*words, "2")[0] == 1
    code, out, _ = cli("--json", *words, "1", "--dry-run")
    assert (code, json.loads(out)["done"]) == (0, 1)
    assert cli("request", "bulk", "erase", "--state", "triage", "--expect", "1")[0] == 2
    assert cli("request", "bulk", "withdraw", "--request", rows[0]["request"], "--expect", "1")[0] == 0


def test_the_suppression_list_is_downloaded_and_a_file_screened(
    cli: Cli, url: str, transaction: Transaction, settings: Settings, tmp_path: Path
) -> None:
    lines = [{"id": "a", "text": "Ada said: hello."}, {"id": "b", "prompt": "Who?", "completion": " Bob."}]
    corpus, clean, listed = (tmp_path / name for name in ("corpus.jsonl", "clean.jsonl", "list.ndjson"))
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    key = settings.keys / "suppression.key"
    mac = content.suppression_mac(bytes.fromhex(key.read_text()), screening.digest_of(lines[0]))
    with transaction() as session:
        session.add(Suppression(mac=mac))
    code, out, err = cli("--json", "suppression", "screen", str(corpus), "--out", str(clean))
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["screened"], said["kept_back"]) == (2, 1)
    assert clean.read_text() == json.dumps(lines[1]) + "\n"
    assert mac.hex() in cli("suppression", "list")[1]
    assert cli("suppression", "list", "--out", str(listed))[0] == 0
    clean.unlink()
    words = ("suppression", "screen", str(corpus), "--out", str(clean), "--list", str(listed))
    assert cli(*words)[0] == 2
    assert "1 kept back" in cli(*words, "--list-key", str(key))[2]
    assert clean.read_text() == json.dumps(lines[1]) + "\n"
    corpus.write_text("not JSON\n")
    code, _, err = cli("suppression", "screen", str(corpus), "--out", str(tmp_path / "none"))
    assert (code, "was not screened" in err) == (1, True)
    assert not (tmp_path / "none").exists()
    assert cli("--as", "officer", "suppression", "list")[0] == 1


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


def test_keys_are_rotated_distrusted_and_listed(cli: Cli) -> None:
    assert cli("keys")[0] == 0
    old = [line.split()[1] for line in cli("keys", "list")[1].splitlines()]
    assert len(old) == 2
    code, out, _ = cli("keys", "rotate")
    assert code == 0
    new = [line.split()[1] for line in out.splitlines()]
    listed = cli("keys", "list")[1]
    assert [line.split()[1] for line in listed.splitlines()] == [*old, *new]
    assert listed.count(" to now") == 2
    code, _, err = cli("keys", "distrust", new[0], "--after", "2026-01-01T00:00:00")
    assert (code, "signs now" in err) == (1, True)
    assert cli("keys", "distrust", old[0], "--after", "2026-01-01T00:00:00")[0] == 0
    assert "not trusted after 2026-01-01T00:00:00Z" in cli("keys", "list")[1]
    code, out, _ = cli("keys", "rotate", "--only", "log")
    assert (code, out.startswith("log ")) == (0, True)
    assert cli("keys", "rotate", "--only", "log")[0] == 1, "both sign already"
    assert "is gone" in cli("keys", "retire")[1]
    assert cli("keys", "rotate", "--only", "king")[0] == 2
    assert cli("keys", "rotate", "--p256", "awskms:alias/a")[0] == 2, "its public half is needed"
