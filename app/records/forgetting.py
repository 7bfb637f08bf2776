"""Rows of records that were erased long enough ago: deleted, and nothing of them comes back.

What keeps a record out of every training afterwards is the list (`suppression`): before a row goes, the
list is made to know what it says. What else its row was for, numbers remember: that something was erased
from the dataset, and which places of the held-back order are vacant. A row that a request still names, or
that is held, waits; see `app.retention`.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from uuid import UUID

from app import retention
from app.audit import events
from app.audit import service as audit
from app.records import lottery
from app.records.repository import Datasets, Records
from app.records.suppression.repository import Suppressions
from app.storage.database import Session

BATCH_ROWS = 1_000
HELD_BACK = "held_back"


def forget(session: Session, *, lottery_key: bytes, now: datetime) -> int:
    """Delete rows of records that were erased long enough ago; return how many, at most `BATCH_ROWS`."""
    found = Records(session).over(before=now - retention.POLICY.person, now=now, limit=BATCH_ROWS)
    for dataset_id, each in groupby(found, key=lambda row: row.dataset_id):
        rows = list(each)
        held_back = {row.id: bytes(row.cluster) for row in rows if row.arm == HELD_BACK}
        _forget(session, dataset_id, [row.id for row in rows], held_back, lottery_key=lottery_key)
        audit.record(session, events.RecordsForgotten(dataset_id, len(rows), now))
    return len(found)


def _forget(
    session: Session,
    dataset_id: UUID,
    record_ids: Sequence[int],
    held_back: dict[int, bytes],
    *,
    lottery_key: bytes,
) -> None:
    stored, dataset = Records(session), Datasets(session).locked(dataset_id)
    Suppressions(session).complete(record_ids)
    if held_back:
        drawn = stored.drawn(dataset_id)
        staying = stored.clusters_left(dataset_id, besides=record_ids)
        dataset.forgotten_places = lottery.places(
            lottery_key,
            drawn,
            vacant=dataset.forgotten_places,
            leaving=frozenset(held_back.values()) - staying,
        )
    dataset.forgotten += len(record_ids)
    session.flush()
    stored.delete(record_ids)
