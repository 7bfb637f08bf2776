"""The log in Postgres: appended in the caller's transaction, sequenced, signed, published, proved."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from app.errors import Invalid, NotFound
from app.storage.database import Transaction
from app.tables import LogCheckpoint, LogLeaf, LogNode
from app.transparency import keys, service, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.mark import LogRolledBack, Mark, Overtaken
from app.transparency.notes import Note, NoteRefused
from app.transparency.proofs import Proof
from app.transparency.tiles import ENTRIES, Tile, entries_of, hashes_of, of_size
from tests.app.transparency.logs import (
    NOW,
    ORIGIN,
    SIGNER,
    Witnesses,
    append,
    entry,
    policy,
    sequencer,
)


def published(transaction: Transaction) -> Checkpoint:
    with transaction() as session:
        return policy().opened(service.checkpoint(session)).checkpoint


def test_what_was_appended_is_published_in_order(transaction: Transaction, tmp_path: Path) -> None:
    append(transaction, "a", "b", "c")
    assert service.sequence(transaction, sequencer(tmp_path)) == 3
    leaves = [tree.leaf_hash(entry(name)) for name in "abc"]
    assert published(transaction) == Checkpoint(origin=ORIGIN, size=3, root=tree.root(leaves))
    with transaction() as session:
        assert entries_of(service.tile(session, Tile(level=ENTRIES, number=0, width=3)), width=3) == [
            entry(name) for name in "abc"
        ]


def test_an_entry_of_a_transaction_that_failed_was_never_there(
    transaction: Transaction, tmp_path: Path
) -> None:
    def fails() -> None:
        with transaction() as session:
            service.append(session, "publication/v1", pae_sha256="0" * 64, subject="0" * 64)
            session.execute(text("SELECT 1 / 0"))

    with pytest.raises(DatabaseError):
        fails()
    append(transaction, "kept")
    assert service.sequence(transaction, sequencer(tmp_path)) == 1


def test_appending_twice_is_appending_once(transaction: Transaction, tmp_path: Path) -> None:
    first, again = append(transaction, "a", "a")
    assert service.sequence(transaction, sequencer(tmp_path)) == 1
    assert append(transaction, "a", "b") == [first, tree.leaf_hash(entry("b"))]
    assert again == first
    assert service.sequence(transaction, sequencer(tmp_path)) == 2


def test_only_digests_of_known_kinds_can_be_appended(transaction: Transaction) -> None:
    for kind, pae, subject in (
        ("erasure-certificate/v1", "Ada", "0" * 64),
        ("erasure-certificate/v1", "0" * 64, "A" * 64),
        ("letter/v1", "0" * 64, "0" * 64),
    ):
        with pytest.raises(ValueError, match=r"digest|kind"), transaction() as session:
            service.append(session, kind, pae_sha256=pae, subject=subject)  # type: ignore[arg-type]  # the case


def test_nothing_to_do_is_nothing_done(transaction: Transaction, tmp_path: Path) -> None:
    by = sequencer(tmp_path)
    assert service.sequence(transaction, by) == 0
    append(transaction, "a")
    assert service.sequence(transaction, by) == service.sequence(transaction, by) == 1
    with transaction() as session:
        assert session.query(LogCheckpoint).count() == 1


def test_every_proof_of_a_growing_log_holds(transaction: Transaction, tmp_path: Path) -> None:
    by, names, seen = sequencer(tmp_path), list[str](), list[Checkpoint]()
    for size in (1, 2, 3, 7, 8):
        append(transaction, *(f"{i}" for i in range(len(names), size)))
        names = [f"{i}" for i in range(size)]
        service.sequence(transaction, by)
        seen.append(published(transaction))
    newest = seen[-1]
    with transaction() as session:
        for index, name in enumerate(names):
            proof = Proof.parse(service.proof(session, tree.leaf_hash(entry(name))))
            opened = proof.verify(entry(name), policy())
            assert opened.checkpoint.size == min(each.size for each in seen if each.size > index)
            path = service.inclusion(session, index, newest.size)
            tree.verify_inclusion(index, newest.size, tree.leaf_hash(entry(name)), path, newest.root)
        for old in seen:
            tree.verify_consistency(
                old.size, newest.size, old.root, newest.root, service.consistency(session, old.size, 8)
            )


def test_tiles_grow_whole_and_stay(transaction: Transaction, tmp_path: Path) -> None:
    by = sequencer(tmp_path)
    append(transaction, *range(250))
    service.sequence(transaction, by)
    append(transaction, *range(250, 530))
    assert service.sequence(transaction, by) == 530
    leaves = [tree.leaf_hash(entry(i)) for i in range(530)]
    assert published(transaction).root == tree.root(leaves)
    with transaction() as session:
        for place in of_size(530):
            data = service.tile(session, place)
            assert hashes_of(data, width=place.width) == leaves[place.first : place.first + place.width]
        above = service.tile(session, Tile(level=1, number=0, width=2))
        assert hashes_of(above, width=2) == [tree.root(leaves[:256]), tree.root(leaves[256:512])]
        assert session.query(LogNode).count() == 2
        for beyond in (
            Tile(level=0, number=2, width=19),
            Tile(level=0, number=3, width=1),
            Tile(level=1, number=0, width=3),
            Tile(level=2, number=0, width=1),
            Tile(level=ENTRIES, number=2),
        ):
            with pytest.raises(NotFound):
                service.tile(session, beyond)


def test_more_than_a_batch_is_placed_in_several(
    transaction: Transaction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH_ENTRIES", 4)
    append(transaction, *range(10))
    assert service.sequence(transaction, sequencer(tmp_path)) == 10
    with transaction() as session:
        rows = {row.size: row.state for row in session.query(LogCheckpoint)}
    assert rows == {4: "committed", 8: "committed", 10: "published"}


def test_what_is_not_logged_has_no_proof(transaction: Transaction, tmp_path: Path) -> None:
    by = sequencer(tmp_path)
    with transaction() as session, pytest.raises(NotFound, match="nothing has been logged"):
        service.checkpoint(session)
    [leaf] = append(transaction, "waiting")
    with transaction() as session:
        assert not service.is_published(session, leaf)
        with pytest.raises(NotFound):
            service.proof(session, leaf)
    service.sequence(transaction, by)
    with transaction() as session:
        assert service.is_published(session, leaf)
        assert not service.is_published(session, bytes(32))
        for first, second in ((0, 1), (2, 1)):
            with pytest.raises(Invalid):
                service.consistency(session, first, second)
        with pytest.raises(NotFound):
            service.inclusion(session, 0, 2)


# Nothing is ever taken back ------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["log_leaves", "log_nodes", "log_cosignatures", "log_checkpoints"])
@pytest.mark.parametrize("change", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_the_tables_can_only_grow(
    transaction: Transaction, tmp_path: Path, database_url: str, table: str, change: str
) -> None:
    append(transaction, "a")
    service.sequence(transaction, sequencer(tmp_path))
    column = {"log_leaves": "idx", "log_nodes": "idx", "log_cosignatures": "line"}.get(table, "root")
    statement = change.format(table, column, column)
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute(statement.encode())


def test_a_checkpoint_only_goes_on(transaction: Transaction, tmp_path: Path, database_url: str) -> None:
    append(transaction, "a")
    service.sequence(transaction, sequencer(tmp_path))
    for change in ("state = 'signed'", "note = 'another'", "root = '\\x00'", "body = ''", "size = 2"):
        with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.RaiseException):
            connection.execute(f"UPDATE log_checkpoints SET {change}".encode())


def test_no_leaf_stands_for_another_entry(transaction: Transaction) -> None:
    with pytest.raises(DatabaseError), transaction() as session:
        session.add(LogLeaf(idx=0, leaf_hash=tree.leaf_hash(b"one"), entry=b"another"))


# Behind what was signed ------------------------------------------------------------------------------


def forget(database_url: str, size: int) -> None:
    """Do to the database what restoring a backup does: as if nothing from `size` on had happened."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(b"DELETE FROM log_outbox WHERE idx >= %d" % size)
        connection.execute(b"DELETE FROM log_leaves WHERE idx >= %d" % size)
        connection.execute(b"DELETE FROM log_nodes WHERE (idx + 1) << (8 * level) > %d" % size)
        connection.execute(b"DELETE FROM log_cosignatures WHERE size > %d" % size)
        connection.execute(b"DELETE FROM log_checkpoints WHERE size > %d" % size)


def restored(transaction: Transaction, database_url: str, tmp_path: Path, *, size: int) -> None:
    for number in range(1, 6):
        append(transaction, number)
        service.sequence(transaction, sequencer(tmp_path))
    forget(database_url, size)


def test_a_restored_database_signs_nothing(
    transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    restored(transaction, database_url, tmp_path, size=3)
    by = sequencer(tmp_path)
    before = by.mark.path.read_bytes()
    append(transaction, "another history")
    with pytest.raises(LogRolledBack, match="3 entries of the log and 5 were signed"):
        service.sequence(transaction, by)
    assert by.mark.path.read_bytes() == before
    with transaction() as session:
        assert service.standing(session) == {"published": 3, "committed": 3}


def test_a_database_with_another_history_signs_nothing(
    transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    restored(transaction, database_url, tmp_path, size=3)
    append(transaction, *"xyz")
    service.sequence(transaction, sequencer(tmp_path / "a mark that was lost"))
    append(transaction, "more")
    with pytest.raises(LogRolledBack, match="another log"):
        service.sequence(transaction, sequencer(tmp_path))


def test_lost_leaves_come_back_from_what_was_published(
    transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    by, saved = sequencer(tmp_path), dict[str, bytes]()
    append(transaction, *range(300))
    service.sequence(transaction, by)
    with transaction() as session:
        for place in of_size(300, level=ENTRIES):
            saved[place.path] = service.tile(session, place)
        lost = service.checkpoint(session)
    forget(database_url, 200)
    append(transaction, 250, "waiting")  # the one was lost, and its writer asks again
    with pytest.raises(LogRolledBack):
        service.sequence(transaction, by)
    assert service.recover(transaction, by, lambda place: saved[place.path]) == 100
    assert service.sequence(transaction, by) == 301
    with transaction() as session:
        old, new = policy().opened(lost).checkpoint, policy().opened(service.checkpoint(session)).checkpoint
        proof = service.consistency(session, old.size, new.size)
    tree.verify_consistency(old.size, new.size, old.root, new.root, proof)
    assert service.recover(transaction, by, lambda _: b"") == 0


def test_leaves_that_were_not_signed_are_not_taken_back(
    transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    restored(transaction, database_url, tmp_path, size=3)
    forged = b"".join(len(entry(n)).to_bytes(2) + entry(n) for n in (1, 2, 3, "x", "y"))
    with pytest.raises(LogRolledBack):
        service.recover(transaction, sequencer(tmp_path), lambda _: forged)
    with transaction() as session:
        assert service.standing(session)["committed"] == 3


def test_the_mark_never_goes_back(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "mark")
    assert mark.read(policy()) is None
    small, large, other = (
        SIGNER.sign(Checkpoint(origin=ORIGIN, size=size, root=bytes([byte]) * 32))
        for size, byte in ((3, 1), (5, 2), (5, 3))
    )
    mark.advance(large, policy())
    mark.advance(large, policy())
    with pytest.raises(Overtaken):
        mark.advance(small, policy())
    with pytest.raises(LogRolledBack, match="another root"):
        mark.advance(other, policy())
    assert mark.read(policy()) == Checkpoint(origin=ORIGIN, size=5, root=bytes([2]) * 32)


# Side by side ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequencers", [2, 4])
def test_sequencers_at_once_make_one_log(transaction: Transaction, tmp_path: Path, sequencers: int) -> None:
    """Appends and sequencers race; every mark that was ever written is one history."""
    marks: list[bytes] = []

    class Watched(Mark):
        def advance(self, note: Note, policy: object) -> None:
            super().advance(note, policy)  # type: ignore[arg-type]  # handed on
            marks.append(note.encode())

    path = tmp_path / "log" / "high-water-mark"
    stop, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            while not stop.is_set():
                service.sequence(transaction, sequencer(tmp_path, mark=Watched(path)))
        except BaseException as error:  # noqa: BLE001  reported below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(sequencers)]
    for thread in threads:
        thread.start()
    for number in range(25):
        append(transaction, number)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert service.sequence(transaction, sequencer(tmp_path)) == 25
    with transaction() as session:
        entries = [bytes(row.entry) for row in session.query(LogLeaf).order_by(LogLeaf.idx)]
        assert sorted(entries) == sorted(entry(number) for number in range(25))
        leaves = [tree.leaf_hash(each) for each in entries]
    for data in marks:
        signed = policy().opened(data).checkpoint
        assert signed.root == tree.root(leaves[: signed.size])


def test_an_overtaken_sequencer_leaves_it_to_the_other(transaction: Transaction, tmp_path: Path) -> None:
    by = sequencer(tmp_path)
    append(transaction, "a")

    class Slow(Mark):
        def advance(self, note: Note, policy: object) -> None:
            append(transaction, "b")
            assert service.sequence(transaction, by) == 2
            super().advance(note, policy)  # type: ignore[arg-type]  # handed on

    assert service.sequence(transaction, sequencer(tmp_path, mark=Slow(by.mark.path))) == 2
    with transaction() as session:
        assert {row.size: row.state for row in session.query(LogCheckpoint)} == {
            1: "committed",
            2: "published",
        }


# Witnesses -------------------------------------------------------------------------------------------------


def test_a_checkpoint_waits_for_its_quorum(transaction: Transaction, tmp_path: Path) -> None:
    witnesses = Witnesses(away={"W2"})
    lines = [witnesses.add(f"W{i}", 20 + i, tmp_path) for i in (1, 2, 3)]
    chosen = policy(*lines, "group G 3 W1 W2 W3", quorum="G")
    by = sequencer(tmp_path, chosen, ask=witnesses.ask)
    append(transaction, "a")
    assert service.sequence(transaction, by) == 0
    witnesses.away.clear()
    witnesses.asked.clear()
    assert service.sequence(transaction, by) == 1
    assert witnesses.asked == ["W2"], "who has cosigned is not asked again"
    append(transaction, "b", "c")
    assert service.sequence(transaction, by) == 3
    with transaction() as session:
        opened = chosen.opened(service.checkpoint(session))
        proof = Proof.parse(service.proof(session, tree.leaf_hash(entry("a"))))
    assert opened.cosigned == dict.fromkeys(("W1", "W2", "W3"), int(NOW.timestamp()))
    assert set(proof.verify(entry("a"), chosen).cosigned) == {"W1", "W2", "W3"}


def test_a_witness_that_lags_is_brought_up(transaction: Transaction, tmp_path: Path) -> None:
    witnesses = Witnesses()
    line = witnesses.add("W1", 21, tmp_path)
    by = sequencer(tmp_path, policy(line), ask=witnesses.ask)
    for number in range(3):
        witnesses.away = {"W1"} if number == 1 else set()
        append(transaction, number)
        service.sequence(transaction, by)
    with transaction() as session:
        assert set(policy(line, quorum="W1").opened(service.checkpoint(session)).cosigned) == {"W1"}


@pytest.mark.parametrize("quorum", ["W1", "none"])
@pytest.mark.parametrize("names", ["x", "xy", "xyz"])
def test_a_witness_that_forgot_nothing_stops_a_fork(
    transaction: Transaction, database_url: str, tmp_path: Path, quorum: str, names: str
) -> None:
    """The database and the mark were both restored: only the witness still knows better."""
    witnesses = Witnesses()
    chosen = policy(witnesses.add("W1", 21, tmp_path), quorum=quorum)
    by = sequencer(tmp_path, chosen, ask=witnesses.ask)
    append(transaction, "a", "b")
    service.sequence(transaction, by)
    forget(database_url, 0)
    append(transaction, *names)
    forked = sequencer(tmp_path / "elsewhere", chosen, ask=witnesses.ask)
    with pytest.raises(LogRolledBack, match=r"has seen|answered 422"):
        service.sequence(transaction, forked)
    with transaction() as session, pytest.raises(NotFound):
        service.checkpoint(session)


def test_the_time_of_a_cosignature_is_the_witness_s(transaction: Transaction, tmp_path: Path) -> None:
    witnesses = Witnesses()
    at = datetime(2026, 11, 21, 12, 0, 7, tzinfo=UTC)
    chosen = policy(witnesses.add("W1", 21, tmp_path, at=at), quorum="W1")
    append(transaction, "a")
    service.sequence(transaction, sequencer(tmp_path, chosen, ask=witnesses.ask))
    with transaction() as session:
        assert chosen.opened(service.checkpoint(session)).cosigned == {"W1": int(at.timestamp())}


# Against the tree of lists -----------------------------------------------------------------------------------


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_whatever_the_batches_it_is_the_same_tree(
    transaction: Transaction, database_url: str, tmp_path: Path, batches: list[int]
) -> None:
    forget(database_url, 0)
    by, size = sequencer(tmp_path / str(id(batches))), 0
    by.mark.path.unlink(missing_ok=True)
    for batch in batches:
        append(transaction, *range(size, size + batch))
        size += batch
        assert service.sequence(transaction, by) == size
        assert published(transaction).root == tree.root([tree.leaf_hash(entry(i)) for i in range(size)])


def test_one_log_under_one_key_after_the_other(transaction: Transaction, tmp_path: Path) -> None:
    """Old proofs open under the policy of today, new ones under that of before while both keys sign."""
    folder = tmp_path / "keys"
    before = keys.generate(folder, issuer="https://issuer.example", at=NOW)

    def grown(name: str) -> bytes:
        [leaf] = append(transaction, name)
        by = service.sequencer(
            keys_directory=folder, storage=(tmp_path / "store").as_uri(), clock=lambda: NOW
        )
        service.sequence(transaction, by)
        with transaction() as session:
            return service.proof(session, leaf)

    proofs = [grown("a")]
    keys.rotate(folder)
    proofs.append(grown("b"))
    keys.retire(folder)
    proofs.append(grown("c"))
    after = keys.read_policy(folder)
    for name, proof in zip("abc", proofs, strict=True):
        assert Proof.parse(proof).verify(entry(name), after).checkpoint.origin == ORIGIN
    assert Proof.parse(proofs[1]).verify(entry("b"), before)
    with pytest.raises(NoteRefused):
        Proof.parse(proofs[2]).verify(entry("c"), before)
