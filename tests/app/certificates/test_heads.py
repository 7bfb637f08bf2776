"""Where the audit chain was: stated hourly, logged, compared by the service and by whoever has a copy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from app.audit import service as audit
from app.audit.archive import Archive, ship
from app.certificates import check, heads
from app.cli import main
from app.signing import envelope
from app.signing.keys import KeyUnusable
from app.tables import AuditEvent, LogOutbox, StatedHead
from app.transparency import entries, tree
from tests.app.certificates.issuing import Issuer
from tests.fixtures.api import Callers

Cli = Callable[..., tuple[int, str]]


def state(issuer: Issuer) -> bool:
    settings, desk = issuer.settings, issuer.desk
    return heads.state(desk.transaction, directory=settings.keys, issuer=settings.issuer, clock=desk.clock)


def test_stated_hourly_while_anything_happens_and_logged(issuer: Issuer, callers: Callers) -> None:
    callers("anna")
    assert state(issuer)
    assert not state(issuer)
    issuer.desk.clock.advance(hours=1)
    assert not state(issuer)  # nothing has happened
    callers("berta")
    assert state(issuer)
    callers("carla")
    issuer.desk.clock.advance(minutes=59)
    assert not state(issuer)
    with issuer.desk.transaction() as session:
        for head in session.scalars(select(StatedHead)).all():
            event = session.get_one(AuditEvent, head.seq)
            assert bytes(head.hash) == bytes(event.hash)
            entry = entries.build(heads.KIND, pae_sha256=head.pae_sha256, subject=bytes(head.hash).hex())
            assert session.scalar(select(LogOutbox.id).where(LogOutbox.leaf_hash == tree.leaf_hash(entry)))


def test_without_the_keys_nothing_is_stated(issuer: Issuer, callers: Callers, tmp_path: Path) -> None:
    callers("anna")
    with pytest.raises(KeyUnusable):
        heads.state(issuer.desk.transaction, directory=tmp_path, issuer="x", clock=issuer.desk.clock)


def test_whoever_rewrites_the_whole_chain_is_told_by_what_was_signed(
    issuer: Issuer, callers: Callers
) -> None:
    """Every hash follows, and the head too: only the statement remembers."""
    callers("anna")
    state(issuer)
    auditor = callers("auditor", "auditor")
    assert (found := auditor.post("/v1/audit/verify").json())["valid"]
    assert found["stated"] == 1
    with issuer.desk.transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        last = audit.START
        for row in session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all():
            if row.seq == 1:
                row.body = bytes(row.body).replace(b'"person"', b'"machin"')
            row.prev_hash, row.hash = last, audit.link(row.seq, last, bytes(row.body))
            last = row.hash
        session.flush()
        session.execute(text("UPDATE audit_head SET hash = :hash"), {"hash": last})
        signed = session.scalar(select(func.min(StatedHead.seq)))
    found = auditor.post("/v1/audit/verify").json()
    assert (found["valid"], found["broken_at"]) == (False, signed)


def test_a_chain_that_was_cut_short_of_what_was_signed(issuer: Issuer, callers: Callers) -> None:
    auditor = callers("auditor", "auditor")
    callers("anna")
    state(issuer)
    with issuer.desk.transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        last = session.scalar(select(func.max(AuditEvent.seq)))
        session.execute(text("DELETE FROM audit_events WHERE seq = :seq"), {"seq": last})
        session.execute(
            text(
                "UPDATE audit_head SET seq = seq - 1, hash = (SELECT hash FROM audit_events ORDER BY seq DESC LIMIT 1)"
            )
        )
    found = auditor.post("/v1/audit/verify").json()
    assert (found["valid"], found["broken_at"]) == (False, last)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["lethe", *words])
        capsys.readouterr()  # the API is in this process, and its log is not what is read
        with pytest.raises(SystemExit) as ended:
            main.main()
        said, code = capsys.readouterr(), ended.value.code
        return (code if isinstance(code, int) else 0), said.out + said.err

    return run


def test_a_stranger_checks_a_copy_with_a_signed_head(
    issuer: Issuer, callers: Callers, cli: Cli, tmp_path: Path
) -> None:
    auditor = callers("auditor", "auditor")
    state(issuer)
    callers("later")
    copy = Archive.of(issuer.settings.storage)
    ship(issuer.desk.transaction, copy)
    folder = shutil.copytree(copy.directory, tmp_path / "copy")
    head, trust = tmp_path / "head.json", tmp_path / "trust.json"
    [stated] = auditor.get("/v1/audit/heads").json()
    head.write_bytes(envelope.encode(stated["statement"]))
    trust.write_text(auditor.client.get("/.well-known/lethe-trust.json").text)

    count = copy.head().seq
    assert cli("chain", "check", str(folder)) == (0, f"{count} events follow from each other\n")
    code, said = cli("chain", "check", str(folder), "--head", str(head), "--trust", str(trust))
    assert (code, said) == (0, f"{count} events follow from each other, as signed\n")

    # The copy of another issuer, or of another past.
    line = next(folder.glob("*.jsonl"))
    said_lines = [json.loads(each) for each in line.read_text().splitlines()]
    last = audit.START
    for each in said_lines:
        each["body"] = each["body"].replace('"person"', '"machin"')
        last = audit.link(each["seq"], last, each["body"].encode())
        each["hash"] = last.hex()
    line.write_text("".join(json.dumps(each) + "\n" for each in said_lines))
    (folder / "head").write_text(json.dumps({"hash": last.hex(), "seq": count}))
    assert cli("chain", "check", str(folder))[0] == 0
    code, said = cli("chain", "check", str(folder), "--head", str(head), "--trust", str(trust))
    assert code == 1
    assert "another hash" in said


@pytest.mark.parametrize("what", ["payload", "kind", "no trust"])
def test_a_head_that_does_not_count(
    issuer: Issuer, callers: Callers, cli: Cli, tmp_path: Path, what: str
) -> None:
    auditor = callers("auditor", "auditor")
    state(issuer)
    copy = Archive.of(issuer.settings.storage)
    ship(issuer.desk.transaction, copy)
    head, trust = tmp_path / "head.json", tmp_path / "trust.json"
    trust.write_text(auditor.client.get("/.well-known/lethe-trust.json").text)
    statement: dict[str, Any] = auditor.get("/v1/audit/heads").json()[0]["statement"]
    if what == "payload":
        statement["payload"] = "A" + statement["payload"][1:]
    if what == "kind":
        issuer.stated()
        statement = json.loads(auditor.client.get("/.well-known/lethe-status.json").text)
    head.write_bytes(envelope.encode(statement))
    words = ["--head", str(head)] + ([] if what == "no trust" else ["--trust", str(trust)])
    code, said = cli("chain", "check", str(copy.directory), *words)
    assert code == (2 if what == "no trust" else 1)
    assert "does not count" in said or what == "no trust"
    assert check.TYPES + heads.KIND not in said
