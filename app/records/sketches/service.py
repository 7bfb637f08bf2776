"""Sketching a dataset: a worker's part.

    claim    one short transaction; whoever claims second has nothing to do
    batch    no transaction: read so many records, compare each with its keyed hash, sketch it
    put      one transaction per batch; the next one begins behind it, whoever makes that

Killed, it goes on behind its last batch; a rival finds its place moved on and leaves. Of a dataset whose
sketches were made under another name (`Sketcher.name`) the old ones go first.
"""

from uuid import UUID

from app.clock import Clock
from app.errors import Conflict, Unavailable
from app.failpoints import reach
from app.records import reading, service
from app.records.sketching import Sketcher, shingles
from app.storage.database import Transaction

BATCH_RECORDS = 5_000


def sketch(
    transaction: Transaction, dataset_id: UUID, *, sketch_key: bytes, content_key: bytes, clock: Clock
) -> int:
    """Sketch the records of a dataset that are not sketched yet; return how many that were."""
    sketcher, done = Sketcher(sketch_key), 0
    with transaction() as session:
        claimed = service.claim_sketching(session, dataset_id, name=sketcher.name, now=clock())
    if claimed is None:
        return 0
    source, after = claimed
    while True:
        with transaction() as session:
            rows = service.unsketched(session, dataset_id, after=after, limit=BATCH_RECORDS)
        try:
            found = {
                row.id: sketcher.bands(shingles(line.said))
                for row, line in reading.contents(source, rows, content_key=content_key)
            }
        except (Conflict, Unavailable):
            with transaction() as session:
                service.put_sketching_off(session, dataset_id, now=clock())
            raise
        reach("sketch.computed")
        with transaction() as session:
            last = rows[-1].id if rows else None
            if not service.put_sketches(
                session, dataset_id, found, name=sketcher.name, after=after, last=last, at=clock()
            ):
                return done
        reach("sketch.recorded")
        if last is None:
            return done
        after, done = last, done + len(found)
