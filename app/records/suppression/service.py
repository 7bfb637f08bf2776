"""Bars: made and lifted by a worker (`bar`), read and asked about by pipelines (`page`, `screen`).

It never asks who anybody is: a record is known by what it says.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.clock import Clock
from app.errors import Unavailable
from app.records import reading
from app.records import service as records
from app.records.content import canonical, suppression_mac
from app.records.reading import DatasetChanged, RecordRow, Source
from app.records.suppression.repository import Suppressions
from app.storage.database import Session, Transaction

BATCH_RECORDS = 1_000
PAGE_ROWS = 5_000
DIGESTS_MAX = 10_000


class Bar(NamedTuple):
    """One entry of the list."""

    number: int
    mac: bytes


@dataclass(frozen=True, kw_only=True)
class Screening:
    """Which of the digests that were asked about are barred, and by how long a list."""

    list_version: int
    hits: list[int]


# What a worker does ------------------------------------------------------------------------------


def bar(
    transaction: Transaction, *, states: Collection[str], content_key: bytes, key: bytes, clock: Clock
) -> int:
    """Bar what requests in these states erase, and no longer what none does; return how many were barred.

    Sources are read between two short transactions. One that cannot be read now is left to the next
    call; a record that is no longer there is noted, as it can never be recognised.
    """
    with transaction() as session:
        for dataset_id, count in Suppressions(session).lift(states):
            audit.record(session, events.BarsLifted(dataset_id, count, clock()))
        missing = Suppressions(session).unbarred(states, limit=BATCH_RECORDS)
        wanted = [
            (
                dataset_id,
                records.source(session, dataset_id),
                records.chosen(session, [row.id for row in rows]),
            )
            for dataset_id, rows in groupby(missing, key=lambda row: row.dataset_id)
        ]
    barred = 0
    for dataset_id, source, rows in wanted:
        try:
            macs = _macs(source, rows, content_key=content_key, key=key)
        except Unavailable:
            continue
        with transaction() as session:
            added = Suppressions(session).add(macs)
            unreadable = sum(mac is None for mac in macs.values())
            if added:
                audit.record(session, events.RecordsBarred(dataset_id, added, unreadable, clock()))
            barred += added
    return barred


def _macs(
    source: Source, rows: Sequence[RecordRow], *, content_key: bytes, key: bytes
) -> dict[int, bytes | None]:
    """Return each record's keyed hash; where the file has changed, of what is still as it was."""

    def read(some: Sequence[RecordRow]) -> dict[int, bytes | None]:
        return {
            row.id: suppression_mac(key, hashlib.sha256(canonical(line.content)).digest())
            for row, line in reading.contents(source, some, content_key=content_key)
        }

    try:
        return read(rows)
    except DatasetChanged:
        pass
    # Read by offset, and believed because each is compared with its own keyed hash.
    source = Source(dataset_id=source.dataset_id, uri=source.uri, format=source.format)
    found: dict[int, bytes | None] = {}
    for row in rows:
        try:
            found |= read([row])
        except DatasetChanged:
            found[row.id] = None
    return found


# What pipelines ask ------------------------------------------------------------------------------


def page(session: Session, *, after: int) -> list[Bar]:
    """Return a page of the list, from after a number on."""
    found = Suppressions(session).page(after=after, limit=PAGE_ROWS)
    return [Bar(row.number, bytes(row.mac)) for row in found if row.mac is not None]


def version(session: Session) -> int:
    """Return how far the list goes."""
    return Suppressions(session).version()


def listed(session: Session, *, by: UUID, after: int, at: datetime) -> None:
    """Keep that somebody read the list."""
    audit.record(session, events.SuppressionListed(by, after, at))


def screen(
    session: Session,
    digests: Sequence[bytes],
    *,
    manifest: str | None,
    key: bytes,
    by: UUID,
    at: datetime,
) -> Screening:
    """Return the positions of the digests that are barred; that it was asked is kept."""
    assert len(digests) <= DIGESTS_MAX, "bounded at the door"
    macs = [suppression_mac(key, digest) for digest in digests]
    list_version = version(session)
    barred = Suppressions(session).among(macs)
    hits = [position for position, mac in enumerate(macs) if mac in barred]
    audit.record(
        session,
        events.SuppressionScreened(by, manifest, len(digests), len(hits), list_version, at),
    )
    return Screening(list_version=list_version, hits=hits)
