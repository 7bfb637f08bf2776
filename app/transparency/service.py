"""What can be done to the public log: append, sequence, read, prove, refuse to start behind it.

    append     in the caller's transaction: the entry waits
    sequence   commit first: places, hashes and a checkpoint, in one short transaction under a lock
               sign second: no transaction; the mark outside the database moves before anybody sees it
               publish third: cosignatures, then the checkpoint is what everybody reads

Killed at any line, the next `sequence` goes on: what is committed is signed, what is signed is
published, and signing again gives the same bytes. Never is a size signed that is not committed, nor
two roots of one size.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from app import telemetry
from app.clock import Clock
from app.errors import Invalid, NotFound
from app.failpoints import reach
from app.storage.database import DatabaseError, Session, Transaction
from app.storage.locations import local_path
from app.tables import LogCheckpoint
from app.transparency import entries, keys, tiles, tree, witnesses
from app.transparency.checkpoint import Checkpoint
from app.transparency.entries import Kind
from app.transparency.keys import LogSigner
from app.transparency.mark import LogRolledBack, Mark, Overtaken
from app.transparency.notes import Note, Signature
from app.transparency.policies import Policy
from app.transparency.proofs import Proof
from app.transparency.repository import PUBLISHED, Log
from app.transparency.tiles import ENTRIES, HEIGHT, WIDTH, Tile, TiledTree
from app.transparency.witnesses import Ask

BATCH_ENTRIES = 4_096
"""How many entries get their places in one transaction."""

_log = telemetry.logger("transparency")


@dataclass(frozen=True, kw_only=True)
class Sequencer:
    """All that sequencing needs beside the database."""

    signer: LogSigner
    policy: Policy
    mark: Mark
    clock: Clock
    ask: Ask = witnesses.ask


def sequencer(*, keys_directory: Path, storage: str, clock: Clock) -> Sequencer:
    """Return the sequencer of an installation: its keys, and the mark in its object store."""
    return Sequencer(
        signer=keys.open_log(keys_directory),
        policy=keys.read_policy(keys_directory),
        mark=mark_of(storage),
        clock=clock,
    )


def mark_of(storage: str) -> Mark:
    """Return the mark of an installation: it lies in the object store, which no database restore touches."""
    path = local_path(storage)
    assert path is not None, "the object store is a directory"
    return Mark(path / "log" / "high-water-mark")


# What writers do ---------------------------------------------------------------------------------


def append(session: Session, kind: Kind, *, pae_sha256: str, subject: str) -> bytes:
    """Ask for a statement to be logged, in the caller's transaction; return its leaf hash.

    Appending again what was appended before changes nothing.
    """
    entry = entries.build(kind, pae_sha256=pae_sha256, subject=subject)
    leaf = tree.leaf_hash(entry)
    Log(session).ask(leaf, entry)
    return leaf


def sequence(transaction: Transaction, by: Sequencer) -> int:
    """Give whatever waits its place, sign, publish; return how large the published log is.

    Any number may run at once and any may be killed: each step is done once, by whoever comes first.
    """
    while _commit(transaction, by):
        reach("log.committed")
    with transaction() as session:
        newest = Log(session).newest()
    if newest is not None and newest.state != PUBLISHED:
        with suppress(Overtaken):  # another has signed a larger tree, and publishes it
            _publish(transaction, by, _sign(transaction, by, Checkpoint.parse(newest.body)))
    with transaction() as session:
        return standing(session)["published"]


def _commit(transaction: Transaction, by: Sequencer) -> bool:
    """Place one batch and commit a checkpoint over it; return whether there was anything to place."""
    with transaction() as session:
        log = Log(session)
        if not log.waiting():
            return False
        log.alone()
        _require(log, by.mark.read(by.policy))
        before = log.size()
        log.place(before, limit=BATCH_ENTRIES)
        after = log.size()
        if after == before:
            return False  # another has placed them while we waited for the lock
        _grow(log, before, after)
        root = TiledTree(after, _reader(log)).root()
        log.commit(Checkpoint(origin=by.signer.key.name, size=after, root=root))
    return True


def _grow(log: Log, before: int, after: int) -> None:
    """Store the roots of the tiles that became whole, level by level."""
    for level in range(1, tiles.LEVEL_MAX + 1):
        first, last = before >> HEIGHT * level, after >> HEIGHT * level
        if first == last:
            return
        below = log.hashes(level - 1, first * WIDTH, (last - first) * WIDTH)
        whole = [below[i : i + WIDTH] for i in range(0, len(below), WIDTH)]
        log.add_nodes(level, first, [tree.root(each) for each in whole])


def _sign(transaction: Transaction, by: Sequencer, checkpoint: Checkpoint) -> Note:
    """Sign what is committed; the note is in the mark and in the database before anybody else sees it."""
    with transaction() as session:
        _require(Log(session), by.mark.read(by.policy))
    note = by.signer.sign(checkpoint)
    reach("log.signed")
    by.mark.advance(note, by.policy)
    reach("log.marked")
    with transaction() as session:
        Log(session).sign(checkpoint.size, note.encode().decode())
    reach("log.stored")
    return note


def _publish(transaction: Transaction, by: Sequencer, note: Note) -> None:
    """Ask the witnesses, keep what they say, and show the checkpoint once it has its quorum."""
    checkpoint = Checkpoint.parse(note.text)
    missing = {str(party.key): party for party in by.policy.witnesses.values() if party.url is not None}
    with transaction() as session:
        log = Log(session)
        for known in log.cosignatures(checkpoint.size):
            missing.pop(known, None)
        seen = log.seen_by(missing)

    def prove(old: int) -> list[bytes]:
        with transaction() as session:
            return TiledTree(checkpoint.size, _reader(Log(session))).consistency_proof(old)

    for vkey, party in missing.items():
        try:
            line, seconds = witnesses.collect(party, note, old=seen.get(vkey, 0), prove=prove, ask=by.ask)
        except witnesses.NotCosigned as reason:
            _log.warning("witness did not cosign", code=reason.code)
            if reason.code in witnesses.KNOWS_BETTER:
                _stop(by, checkpoint, reason)
            continue
        with transaction() as session:
            at = datetime.fromtimestamp(seconds, UTC)
            Log(session).cosign(checkpoint.size, vkey, str(line), at=at)
    reach("log.cosigned")
    with transaction() as session:
        log = Log(session)
        log.alone()
        lines = log.cosignatures(checkpoint.size)
        if by.policy.satisfied([n for n, p in by.policy.witnesses.items() if str(p.key) in lines]):
            log.publish(checkpoint.size, at=by.clock())
    reach("log.published")


def _stop(by: Sequencer, checkpoint: Checkpoint, reason: witnesses.NotCosigned) -> NoReturn:
    """Raise: a witness has seen more than we have, or something else. Its quorum may not even need it.

    Either another sequencer was faster, or our database and our mark were both restored.
    """
    marked = by.mark.read(by.policy)
    if marked is not None and marked.size > checkpoint.size:
        raise Overtaken(f"size {marked.size} was signed meanwhile") from reason
    raise LogRolledBack(f"{reason}; nothing is published until this is understood") from reason


# What keeps a log from being forked ------------------------------------------------------------------


def refuse_if_behind(transaction: Transaction, *, keys_directory: Path, storage: str) -> None:
    """Raise `LogRolledBack` if the database does not hold the log that was signed last.

    To be called at start. A database that cannot be asked now is not behind for that: before each
    signature it is asked again.
    """
    try:
        policy = keys.read_policy(keys_directory)
    except keys.NoLog:
        return
    marked = mark_of(storage).read(policy)
    if marked is None:
        return
    try:
        with transaction() as session:
            _require(Log(session), marked)
    except DatabaseError as error:
        _log.warning("the log was not compared with its mark", **telemetry.failure(error))


def _require(log: Log, marked: Checkpoint | None) -> None:
    """Raise unless the tree of the database is the marked one, or a continuation of it."""
    if marked is None:
        return
    size = log.size()
    if size < marked.size:
        raise LogRolledBack(
            f"the database has {size} entries of the log and {marked.size} were signed: it was restored from"
            " a backup or lost its last commits; `lethe log recover` brings them back"
        )
    if TiledTree(marked.size, _reader(log)).root() != marked.root:
        raise LogRolledBack(f"the database has another log than the one that was signed at {marked.size}")


def recover(transaction: Transaction, by: Sequencer, fetch: tiles.Fetch) -> int:
    """Bring back the leaves that a restored database lacks, from published bundles; return how many.

    Nothing is kept unless the tree then has the root that was signed.
    """
    marked = by.mark.read(by.policy)
    if marked is None:
        raise NotFound("nothing was ever signed: there is nothing to bring back")
    with transaction() as session:
        log = Log(session)
        log.alone()
        before = log.size()
        if before < marked.size:
            for place in tiles.of_size(marked.size, level=ENTRIES, since=before):
                found = tiles.entries_of(fetch(place), width=place.width)
                lost = found[max(0, before - place.first) :]
                log.restore(max(before, place.first), [(tree.leaf_hash(each), each) for each in lost])
            _grow(log, before, marked.size)
        _require(log, marked)
        newest = log.newest()
        if newest is None or newest.size < marked.size:
            log.commit(marked)
    return max(0, marked.size - before)


# What everybody may read -------------------------------------------------------------------------


def checkpoint(session: Session) -> bytes:
    """Return the newest published checkpoint with its cosignatures."""
    return _note(Log(session), _published(session))


def tile(session: Session, place: Tile) -> bytes:
    """Return a tile, or a bundle of entries; a partial one for any width that is published."""
    log = Log(session)
    if not place.exists(_published(session).size):
        raise NotFound("the log has no such tile yet")
    if place.level == ENTRIES:
        return tiles.bundle(log.entries(place.first, place.width))
    return b"".join(log.hashes(place.level, place.first, place.width))


def inclusion(session: Session, index: int, size: int) -> list[bytes]:
    """Return the path from a leaf to the root of a published size."""
    _within(session, index + 1, size)
    return TiledTree(size, _reader(Log(session))).inclusion_proof(index)


def consistency(session: Session, first: int, second: int) -> list[bytes]:
    """Return the proof that a published tree only appended to an earlier one."""
    _within(session, first, second)
    return TiledTree(second, _reader(Log(session))).consistency_proof(first)


def is_published(session: Session, leaf: bytes) -> bool:
    """Return whether a leaf is under a published checkpoint."""
    log = Log(session)
    index = log.index_of(leaf)
    return index is not None and log.first_over(index) is not None


def proof(session: Session, leaf: bytes) -> bytes:
    """Return the proof file of a leaf, always the same one: under the first checkpoint that covered it.

    The first, because its witnesses' times say most about when the statement existed.
    """
    log = Log(session)
    index = log.index_of(leaf)
    found = None if index is None else log.first_over(index)
    if index is None or found is None:
        raise NotFound("nothing with this hash is under a published checkpoint", code="not-logged")
    path = TiledTree(found.size, _reader(log)).inclusion_proof(index)
    return Proof(index=index, hashes=tuple(path), checkpoint=_note(log, found)).encode()


def standing(session: Session) -> Mapping[str, int]:
    """Return how large the log is, published and committed."""
    log = Log(session)
    published = log.newest(published=True)
    return {"published": 0 if published is None else published.size, "committed": log.size()}


def _published(session: Session) -> LogCheckpoint:
    found = Log(session).newest(published=True)
    if found is None:
        raise NotFound("nothing has been logged yet", code="log-empty")
    return found


def _within(session: Session, first: int, second: int) -> None:
    if not 0 < first <= second:
        raise Invalid("a proof leads from something earlier to something later", code="log-range")
    if second > _published(session).size:
        raise NotFound("the log is not that large yet")


def _note(log: Log, found: LogCheckpoint) -> bytes:
    assert found.note is not None, "what is published is signed"
    lines = [str(Signature.parse(line)) for line in log.cosignatures(found.size).values()]
    return (found.note + "".join(lines)).encode()


def _reader(log: Log) -> tiles.Fetch:
    def fetch(place: Tile) -> bytes:
        return b"".join(log.hashes(place.level, place.first, place.width))

    return fetch
