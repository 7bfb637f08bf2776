"""All SQL about searches for near duplicates and what they propose."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.storage.database import Session
from app.tables import (
    Dataset,
    ErasureRequest,
    Record,
    RecordSketch,
    RequestProposal,
    RequestRecord,
    RequestSearch,
)

_NEAR_ANY: Final = text(
    "SELECT asked.place"
    " FROM unnest(CAST(:places AS int[]), CAST(:firsts AS int[]), CAST(:lasts AS int[]))"
    " AS asked(place, first, last)"
    " CROSS JOIN LATERAL (SELECT (CAST(:ids AS bigint[]))[asked.first:asked.last] AS ids) AS own"
    " CROSS JOIN LATERAL (WITH hits AS MATERIALIZED ("
    "SELECT s.record_id FROM record_sketches s WHERE s.bands && ("
    "SELECT array_agg(DISTINCT band) FROM record_sketches o, unnest(o.bands) AS band"
    " WHERE o.record_id = ANY(own.ids)))"
    " SELECT FROM hits JOIN records r ON r.id = hits.record_id"
    " WHERE hits.record_id <> ALL(own.ids) AND r.erased_at IS NULL AND r.role = 'person' LIMIT 1) AS near"
)
"""By their places those sets of records with which any other shares a band; each asks the index by itself."""


class Candidate(NamedTuple):
    """A record that shares a band with some of a request's."""

    id: int
    dataset_id: UUID
    near: list[int]


class Counts(NamedTuple):
    """How many proposals are undecided, and how many were adopted: near duplicates, and what names people."""

    near_open: int
    near_adopted: int
    texts_open: int
    texts_adopted: int

    @property
    def open(self) -> int:
        """Return how many are undecided."""
        return self.near_open + self.texts_open


class Proposed(NamedTuple):
    """A record, the one it is nearest to, and how near."""

    id: int
    near: int
    jaccard: float


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """What of our indexes is not there, and whether anything shares a band with these records."""

    registering: bool
    unsketched: bool
    candidates: bool


class Searches:
    """Searches and proposals in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def indexes(self, request_id: UUID, record_ids: Collection[int]) -> Indexes:
        """Return how the indexes stand for these records; without any, nothing can be near."""
        registering, unsketched = self._missing()
        own = self._bands(record_ids) if record_ids else {}
        found = False
        if own:
            query = self._candidates(request_id, own, record_ids, after=0, limit=1)
            found = bool(self._by_index(query))
        return Indexes(registering=registering, unsketched=unsketched, candidates=found)

    def indexes_of_new(self, sets: Sequence[Sequence[int]]) -> list[Indexes]:
        """Return the same for the sets of new requests, to which nothing was proposed before, at once."""
        registering, unsketched = self._missing()
        near: set[int] = set()
        if filled := [(place, ids) for place, ids in enumerate(sets) if ids]:
            ends = list(accumulate(len(ids) for _, ids in filled))
            self._plan("off")
            near |= set(
                self.session.scalars(
                    _NEAR_ANY,
                    {
                        "places": [place for place, _ in filled],
                        "firsts": [1, *(end + 1 for end in ends[:-1])],
                        "lasts": ends,
                        "ids": [id_ for _, ids in filled for id_ in ids],
                    },
                )
            )
            self._plan("on")
        return [
            Indexes(registering=registering, unsketched=unsketched, candidates=place in near)
            for place in range(len(sets))
        ]

    def _missing(self) -> tuple[bool, bool]:
        """Return whether some dataset is not read yet, and whether some is not sketched."""
        row = self.session.execute(
            select(
                exists().where(Dataset.state == "registering"),
                exists().where(Dataset.state == "ready", Dataset.sketch.is_(None)),
            )
        ).one()
        return row[0], row[1]

    def candidates(
        self, request_id: UUID, of: Collection[int], besides: Collection[int], *, after: int, limit: int
    ) -> list[Candidate]:
        """Return the next records that share a band with one of these, by id, and with which of them."""
        own = self._bands(of)
        if not own:
            return []
        query = self._candidates(request_id, own, besides, after=after, limit=limit)
        return [
            Candidate(id_, dataset_id, [each for each, mine in own.items() if not mine.isdisjoint(bands)])
            for id_, dataset_id, bands in self._by_index(query)
        ]

    def _bands(self, record_ids: Collection[int]) -> dict[int, frozenset[int]]:
        rows = self.session.execute(
            select(RecordSketch.record_id, RecordSketch.bands).where(
                _among(RecordSketch.record_id, record_ids)
            )
        )
        return {id_: frozenset(bands) for id_, bands in rows if bands}

    def _candidates(
        self,
        request_id: UUID,
        own: Mapping[int, Collection[int]],
        besides: Collection[int],
        *,
        after: int,
        limit: int,
    ) -> Select[int, UUID, list[int]]:
        """Return the query of what shares a band, is nobody's plant, and was not proposed before."""
        bands = sorted({band for each in own.values() for band in each})
        # By itself, or the planner walks the table for the first hit instead of asking the index.
        hits = (
            select(RecordSketch.record_id, RecordSketch.bands)
            .where(RecordSketch.bands.op("&&")(cast(bands, ARRAY(BigInteger))))
            .cte("hits")
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        proposed = exists().where(
            RequestProposal.request_id == request_id, RequestProposal.record_id == hits.c.record_id
        )
        return (
            select(hits.c.record_id, Record.dataset_id, hits.c.bands)
            .join(Record, Record.id == hits.c.record_id)
            .where(
                hits.c.record_id > after,
                ~_among(hits.c.record_id, besides),
                Record.erased_at.is_(None),
                Record.role == "person",
                ~proposed,
            )
            .order_by(hits.c.record_id)
            .limit(limit)
        )

    def _by_index(self, query: Select[int, UUID, list[int]]) -> Sequence[Row[int, UUID, list[int]]]:
        """Ask the index, whatever the planner makes of a table that nobody has analysed yet.

        Before that it expects one row in a hundred to share a band, and would rather read them all.
        """
        self._plan("off")
        rows = self.session.execute(query).all()
        self._plan("on")
        return rows

    def _plan(self, other_ways: str) -> None:
        """Allow or forbid, in this transaction, what reads a table from end to end."""
        names = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
        local = true()
        self.session.execute(select(*(func.set_config(name, other_ways, local) for name in names)))

    # Searches

    def get(self, request_id: UUID) -> RequestSearch | None:
        """Return the last search of a request as it is now."""
        return self.session.get(RequestSearch, request_id, populate_existing=True)

    def put(self, request_id: UUID, record_set_hash: bytes, *, state: str, at: datetime) -> None:
        """Begin anew with a set, whatever was before."""
        values: Mapping[str, Any] = {
            "record_set_hash": record_set_hash,
            "state": state,
            "tries": 0,
            "next_at": at,
            "more": False,
        }
        self.session.execute(
            insert(RequestSearch)
            .values(request_id=request_id, **values)
            .on_conflict_do_update(index_elements=["request_id"], set_=dict(values))
        )

    def claim(self, request_id: UUID, *, now: datetime, until: datetime) -> RequestSearch | None:
        """Return an open search whose turn it is, ours until then; None if there is nothing to do."""
        found = self.session.scalar(
            select(RequestSearch)
            .where(
                RequestSearch.request_id == request_id,
                RequestSearch.state == "open",
                RequestSearch.next_at <= now,
            )
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
        if found is not None:
            found.next_at = until
            self.session.flush()
        return found

    def due(self, now: datetime) -> Sequence[UUID]:
        """Return the requests whose search is open and whose turn it is."""
        return self.session.scalars(
            select(RequestSearch.request_id)
            .where(RequestSearch.state == "open", RequestSearch.next_at <= now)
            .order_by(RequestSearch.next_at)
        ).all()

    def unlooked(self, states: Collection[str], *, limit: int) -> Sequence[UUID]:
        """Return the requests in these states for which an index was away, and that owe no search."""
        away = [ErasureRequest.indexes[name].as_string() == "unavailable" for name in (*CERTAIN, NEAR)]
        return self.session.scalars(
            select(ErasureRequest.id)
            .where(
                ErasureRequest.concluded_at.is_(None),
                ErasureRequest.state.in_(states),
                or_(*away),
                ~exists().where(RequestSearch.request_id == ErasureRequest.id, RequestSearch.state == "open"),
            )
            .order_by(ErasureRequest.due_at, ErasureRequest.id)
            .limit(limit)
        ).all()

    # Proposals

    def propose(self, request_id: UUID, found: Collection[Proposed]) -> int:
        """Propose records to whoever decides; what was proposed before stays as it was decided."""
        if not found:
            return 0
        rows = [
            {"request_id": request_id, "record_id": each.id, "near_id": each.near, "jaccard": each.jaccard}
            for each in found
        ]
        made = self.session.scalars(
            insert(RequestProposal).values(rows).on_conflict_do_nothing().returning(RequestProposal.record_id)
        )
        return len(made.all())

    def counts(self, request_id: UUID) -> Counts:
        """Return how many proposals are undecided, and how many were adopted."""
        undecided, adopted = RequestProposal.decision.is_(None), RequestProposal.decision == "adopted"
        near, texts = _by_text(texts=False), _by_text(texts=True)
        row = self.session.execute(
            select(
                func.count().filter(near, undecided),
                func.count().filter(near, adopted),
                func.count().filter(texts, undecided),
                func.count().filter(texts, adopted),
            ).where(RequestProposal.request_id == request_id)
        ).one()
        return Counts(row[0], row[1], row[2], row[3])

    def known(self, request_id: UUID, record_ids: Collection[int], *, texts: bool) -> frozenset[int]:
        """Return which of these records are such proposals of the request, decided or not."""
        found = self.session.scalars(
            select(RequestProposal.record_id).where(
                RequestProposal.request_id == request_id,
                _by_text(texts=texts),
                _among(RequestProposal.record_id, record_ids),
            )
        )
        return frozenset(found)

    def decide(
        self, request_id: UUID, record_ids: Collection[int] | None, decision: str, *, texts: bool, by: UUID
    ) -> Sequence[int]:
        """Decide on these proposals, or on all undecided ones; return those for which that is a change."""
        query = update(RequestProposal).where(
            RequestProposal.request_id == request_id,
            _by_text(texts=texts),
            RequestProposal.decision.is_distinct_from(decision),
        )
        if record_ids is None:
            query = query.where(RequestProposal.decision.is_(None))
        else:
            query = query.where(_among(RequestProposal.record_id, record_ids))
        return self.session.scalars(
            query.values(decision=decision, decided_by=by)
            .returning(RequestProposal.record_id)
            .execution_options(synchronize_session=False)
        ).all()

    def unname(self, request_id: UUID, record_ids: Collection[int]) -> None:
        """Let the request name these records no more."""
        self.session.execute(
            delete(RequestRecord).where(
                RequestRecord.request_id == request_id, _among(RequestRecord.record_id, record_ids)
            )
        )


NEAR = "near_duplicates"
CERTAIN = ("subjects", "contents", "records")
"""What the indexes of a request are called: how its certain matches were found, and what may be near."""


def _by_text(*, texts: bool) -> ColumnElement[bool]:
    """Return the condition that a proposal names the person, however near it is besides; or does not."""
    return RequestProposal.found_by.is_not(None) if texts else RequestProposal.found_by.is_(None)


def _among(column: ColumnElement[int] | Any, record_ids: Collection[int]) -> ColumnElement[bool]:
    """Return the condition as one array: thousands of ids are one parameter, not thousands."""
    among: ColumnElement[bool] = column == func.any(cast(list(record_ids), ARRAY(BigInteger)))
    return among
