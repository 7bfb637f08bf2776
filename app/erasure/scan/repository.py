"""All SQL about text scans: who waits, which datasets are read, and which records are proposed."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    Uuid,
    case,
    cast,
    exists,
    func,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, array, insert

from app.storage.database import Session
from app.tables import Dataset, ErasureRequest, Record, RequestProposal, RequestRecord, RequestScan

ROWS_AT_ONCE = 5000
"""Of an INSERT: Postgres takes 65,535 parameters, and each row has four."""

TEXTS = "texts"
"""What the index of a request is called: what all records say."""


class Mention(NamedTuple):
    """By which types of identifier a record was found, and how often it says them."""

    types: tuple[str, ...]
    times: int


class Scans:
    """Text scans in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def datasets(self) -> frozenset[UUID]:
        """Return the datasets that have texts to be read."""
        return frozenset(self.session.scalars(select(Dataset.id).where(Dataset.state == "ready")))

    def get(self, request_id: UUID) -> RequestScan | None:
        """Return the scan of a request as it is now."""
        return self.session.get(RequestScan, request_id, populate_existing=True)

    def locked(self, request_id: UUID) -> RequestScan | None:
        """Return it, and nobody else changes it before the commit."""
        return self.session.get(RequestScan, request_id, populate_existing=True, with_for_update=True)

    def begin(self, request_ids: Sequence[UUID], *, at: datetime) -> None:
        """Owe scans; what was read for a request before need not be read again."""
        rows: list[dict[str, Any]] = [
            {
                "request_id": request_id,
                "state": "open",
                "datasets": [],
                "records": 0,
                "tries": 0,
                "next_at": at,
                "more": False,
                "waived": False,
            }
            for request_id in request_ids
        ]
        again = {"state": "open", "tries": 0, "next_at": at, "claimed_until": None, "more": False}
        self.session.execute(
            insert(RequestScan)
            .values(rows)
            .on_conflict_do_update(index_elements=["request_id"], set_=again)
            .execution_options(synchronize_session=False)
        )

    def waive(self, request_id: UUID, datasets: Collection[UUID], *, at: datetime) -> None:
        """Let it be enough, whatever was not read of these."""
        values: Mapping[str, Any] = {
            "state": "done",
            "datasets": sorted(datasets),
            "next_at": at,
            "claimed_until": None,
            "more": False,
            "waived": True,
        }
        self.session.execute(
            insert(RequestScan)
            .values(request_id=request_id, records=0, tries=0, **values)
            .on_conflict_do_update(index_elements=["request_id"], set_=dict(values))
            .execution_options(synchronize_session=False)
        )

    # A pass

    def alone(self) -> None:
        """Let nobody else begin a pass before the commit."""
        lock = func.hashtextextended("lethe/text-scan", 0)
        self.session.execute(select(func.pg_advisory_xact_lock(lock)))

    def under_way(self, now: datetime) -> bool:
        """Return whether a worker is reading."""
        return bool(
            self.session.scalar(
                select(exists().where(RequestScan.state == "open", RequestScan.claimed_until > now))
            )
        )

    def lapsed(self, now: datetime) -> Sequence[UUID]:
        """Return whose reader is overdue."""
        found = select(RequestScan.request_id).where(
            RequestScan.state == "open", RequestScan.claimed_until <= now
        )
        return self.session.scalars(found.order_by(RequestScan.request_id)).all()

    def waiting(self, now: datetime) -> UUID | None:
        """Return the request that has waited longest."""
        return self.session.scalar(
            select(RequestScan.request_id)
            .where(RequestScan.state == "open", RequestScan.next_at <= now)
            .order_by(RequestScan.next_at, RequestScan.request_id)
            .limit(1)
        )

    def claim(self, *, now: datetime, until: datetime, limit: int) -> Sequence[RequestScan]:
        """Return open scans whose turn it is, ours until then."""
        found = self.session.scalars(
            select(RequestScan)
            .where(RequestScan.state == "open", RequestScan.next_at <= now)
            .order_by(RequestScan.next_at, RequestScan.request_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()
        for each in found:
            each.claimed_until = until
        self.session.flush()
        return found

    def renew(self, request_ids: Collection[UUID], *, until: datetime) -> None:
        """Say that these are still being read for; one that somebody is just changing is left out."""
        ours = (
            select(RequestScan.request_id)
            .where(_of(request_ids), RequestScan.state == "open", RequestScan.claimed_until.is_not(None))
            .with_for_update(skip_locked=True)
        )
        self.session.execute(
            update(RequestScan)
            .where(RequestScan.request_id.in_(ours))
            .values(claimed_until=until)
            .execution_options(synchronize_session=False)
        )

    def unknown(self, dataset_id: UUID, named: Mapping[UUID, Collection[str]]) -> dict[UUID, dict[str, int]]:
        """Return, of records by their own ids, those that a request neither names nor was told of.

        Neither those that are erased, nor anybody's plants.
        """
        wanted = sorted({each for ids in named.values() for each in ids})
        rows = {
            external_id: id_
            for id_, external_id in self.session.execute(
                select(Record.id, Record.external_id).where(
                    Record.dataset_id == dataset_id,
                    Record.external_id == func.any(cast(wanted, ARRAY(Text))),
                    Record.erased_at.is_(None),
                    Record.role == "person",
                )
            )
        }
        ids, requests = _array(rows.values()), cast(list(named), ARRAY(Uuid))
        known = defaultdict[UUID, set[int]](set)
        for request_id, record_id in self.session.execute(
            union_all(
                select(RequestRecord.request_id, RequestRecord.record_id).where(
                    RequestRecord.request_id == func.any(requests), RequestRecord.record_id == func.any(ids)
                ),
                select(RequestProposal.request_id, RequestProposal.record_id).where(
                    RequestProposal.request_id == func.any(requests),
                    RequestProposal.record_id == func.any(ids),
                    RequestProposal.found_by.is_not(None),
                ),
            )
        ):
            known[request_id].add(record_id)
        return {
            request_id: {
                each: rows[each] for each in mine if each in rows and rows[each] not in known[request_id]
            }
            for request_id, mine in named.items()
        }

    def still_open(self, request_ids: Collection[UUID]) -> Sequence[UUID]:
        """Return for which of these a scan is still owed, locked until the commit.

        The requests first, in their order, as whoever decides on one does; proposals refer to them.
        """
        wanted = cast(list(request_ids), ARRAY(Uuid))
        self.session.execute(
            select(ErasureRequest.id)
            .where(ErasureRequest.id == func.any(wanted))
            .order_by(ErasureRequest.id)
            .with_for_update(key_share=True, read=True)
        )
        return self.session.scalars(
            select(RequestScan.request_id)
            .where(_of(request_ids), RequestScan.state == "open")
            .order_by(RequestScan.request_id)
            .with_for_update()
        ).all()

    def propose(self, found: Mapping[UUID, Mapping[int, Mention]]) -> None:
        """Propose records that name people; what was declined as a near duplicate alone is open again."""
        wanted = {record_id for mine in found.values() for record_id in mine}
        there = frozenset(
            self.session.scalars(
                select(Record.id)
                .where(Record.id == func.any(_array(wanted)), Record.erased_at.is_(None))
                .order_by(Record.id)
                .with_for_update(key_share=True, read=True)
            )
        )
        rows: list[dict[str, Any]] = [
            {
                "request_id": request_id,
                "record_id": record_id,
                "found_by": list(mention.types),
                "mentions": mention.times,
            }
            for request_id, mine in found.items()
            for record_id, mention in sorted(mine.items())
            if record_id in there
        ]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._propose(rows[start : start + ROWS_AT_ONCE])

    def _propose(self, rows: Sequence[Mapping[str, Any]]) -> None:
        made = insert(RequestProposal).values(rows)
        self.session.execute(
            made.on_conflict_do_update(
                index_elements=["request_id", "record_id"],
                set_={
                    "found_by": made.excluded.found_by,
                    "mentions": made.excluded.mentions,
                    "decision": _unless_declined(RequestProposal.decision),
                    "decided_by": _unless_declined(RequestProposal.decided_by),
                },
                where=RequestProposal.found_by.is_(None),
            ).execution_options(synchronize_session=False)
        )

    def read(self, request_ids: Collection[UUID], dataset_id: UUID | None, *, records: int) -> None:
        """Keep that a dataset was read to its end for these; without one, only that records were read."""
        values: dict[str, Any] = {"records": RequestScan.records + records}
        unread: list[ColumnElement[bool]] = []
        if dataset_id is not None:
            # A pass that was thought dead may have kept it before.
            unread.append(~RequestScan.datasets.contains([dataset_id]))
            values["datasets"] = func.array_cat(RequestScan.datasets, array([dataset_id]))
        self.session.execute(
            update(RequestScan)
            .where(_of(request_ids), *unread)
            .values(values)
            .execution_options(synchronize_session=False)
        )


def _unless_declined(column: Any) -> ColumnElement[Any]:
    return case((RequestProposal.decision == "declined", null()), else_=column)


def _of(request_ids: Collection[UUID]) -> Any:
    return RequestScan.request_id == func.any(cast(list(request_ids), ARRAY(Uuid)))


def _array(record_ids: Collection[int] | Any) -> Any:
    """Return ids as one parameter, not thousands."""
    return cast(list(record_ids), ARRAY(BigInteger))
