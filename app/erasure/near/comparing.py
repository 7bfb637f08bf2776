"""Comparing what a request concerns with what shares a band with it: a worker's part.

    claim       one short transaction; whoever claims second has nothing to do
    candidates  short transactions: pages of records by id, from the index
    read        no transaction: both texts from where they lie, each compared with its keyed hash
    conclude    one transaction: the proposals, and the request goes on

Rung twice, two workers may read the same; one concludes. Killed, the next begins anew. Texts are held
for as long as they are compared, and nothing of them is kept but the index.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from uuid import UUID

from app.clock import Clock
from app.erasure.near import service
from app.erasure.near.repository import Proposed
from app.erasure.near.service import Search
from app.errors import Conflict, Unavailable
from app.failpoints import reach
from app.records import service as records
from app.records.sketching import jaccard, shingles
from app.storage.database import Transaction

RECORDS_AT_ONCE = 100
CANDIDATES_AT_ONCE = 1000


def compare(transaction: Transaction, request_id: UUID, *, content_key: bytes, clock: Clock) -> None:
    """Search for the near duplicates of a request's records, if that is still owed."""
    with transaction() as session:
        search = service.claim(session, request_id, now=clock())
    if search is None:
        return
    try:
        found, more = _found(transaction, search, content_key)
    except (Conflict, Unavailable):
        with transaction() as session:
            service.put_off(session, search, at=clock())
        raise
    reach("search.compared")
    with transaction() as session:
        service.conclude(session, search, found, more=more, at=clock())
    reach("search.concluded")


def _found(transaction: Transaction, search: Search, content_key: bytes) -> tuple[list[Proposed], bool]:
    """Return what is near, each with its nearest, and whether there may be more than was looked at."""
    best: dict[int, Proposed] = {}
    for start in range(0, len(search.records), RECORDS_AT_ONCE):
        mine = search.records[start : start + RECORDS_AT_ONCE]
        own: dict[int, frozenset[str]] | None = None
        after = 0
        while True:
            with transaction() as session:
                page = service.candidates(
                    session, search, [id_ for id_, _ in mine], after=after, limit=CANDIDATES_AT_ONCE
                )
            if not page:
                break
            if own is None:
                own = dict(_read(transaction, mine, content_key))
            near = {each.id: each.near for each in page}
            for id_, said in _read(transaction, [(each.id, each.dataset_id) for each in page], content_key):
                for other in near[id_]:
                    index = jaccard(said, own.get(other, frozenset()))
                    if index >= search.jaccard_least and (id_ not in best or index > best[id_].jaccard):
                        best[id_] = Proposed(id_, other, index)
            if len(best) > search.proposals_most:
                return list(best.values()), True
            after = page[-1].id
    return list(best.values()), False


def _read(
    transaction: Transaction, wanted: Sequence[tuple[int, UUID]], content_key: bytes
) -> Iterator[tuple[int, frozenset[str]]]:
    """Yield the shingles of records, dataset by dataset."""
    for dataset_id, members in groupby(sorted(wanted, key=itemgetter(1, 0)), key=itemgetter(1)):
        with transaction() as session:
            source = records.source(session, dataset_id)
            rows = records.chosen(session, [id_ for id_, _ in members])
        for row, line in records.contents(source, rows, content_key=content_key):
            yield row.id, shingles(line.said)
