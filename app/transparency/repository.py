"""All SQL about the public log."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import exists, func, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import aliased

from app.storage.database import Session
from app.tables import LogCheckpoint, LogCosignature, LogLeaf, LogNode, LogOutbox, new_id
from app.transparency.checkpoint import Checkpoint

LOCK = 0x6C6F67  # "log"
COMMITTED, SIGNED, PUBLISHED = "committed", "signed", "published"

_PLACE = text(
    """
    WITH taken AS (
        SELECT id, :size + row_number() OVER (ORDER BY id) - 1 AS idx
        FROM (SELECT id FROM log_outbox WHERE idx IS NULL ORDER BY id LIMIT :limit) AS pending
    ), placed AS (
        UPDATE log_outbox SET idx = taken.idx FROM taken WHERE log_outbox.id = taken.id
        RETURNING log_outbox.idx, leaf_hash, entry
    )
    INSERT INTO log_leaves (idx, leaf_hash, entry) SELECT idx, leaf_hash, entry FROM placed
    """
)


class Log:
    """The log in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    # What is to be logged ----------------------------------------------------------------------

    def ask(self, leaf_hash: bytes, entry: bytes) -> None:
        """Insert an entry that waits for its place; one that is known already is left as it is."""
        self.session.execute(
            upsert(LogOutbox)
            .values(id=new_id(), leaf_hash=leaf_hash, entry=entry)
            .on_conflict_do_nothing(index_elements=["leaf_hash"])
        )

    def waiting(self) -> bool:
        """Return whether anything waits for its place."""
        return bool(self.session.scalar(select(exists().where(LogOutbox.idx.is_(None)))))

    def index_of(self, leaf_hash: bytes) -> int | None:
        """Return the place of a leaf."""
        return self.session.scalar(select(LogLeaf.idx).where(LogLeaf.leaf_hash == leaf_hash))

    # The tree ------------------------------------------------------------------------------------

    def alone(self) -> None:
        """Wait until nobody else sequences; held until the commit."""
        self.session.execute(select(func.pg_advisory_xact_lock(literal(LOCK))))

    def size(self) -> int:
        """Return how many leaves have their place."""
        last = self.session.scalar(select(func.max(LogLeaf.idx)))
        return 0 if last is None else last + 1

    def place(self, size: int, *, limit: int) -> None:
        """Give the first that wait their places, from `size` on; how many is seen by asking the size."""
        self.session.execute(_PLACE, {"size": size, "limit": limit})

    def add_nodes(self, level: int, first: int, hashes: Sequence[bytes]) -> None:
        """Insert the roots of whole tiles."""
        rows = [{"level": level, "idx": first + i, "hash": each} for i, each in enumerate(hashes)]
        self.session.execute(insert(LogNode), rows)

    def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        """Return hashes of one level in order: of leaves, or above them of whole tiles."""
        if level == 0:
            rows = select(LogLeaf.leaf_hash).where(LogLeaf.idx >= first, LogLeaf.idx < first + count)
            return [bytes(each) for each in self.session.scalars(rows.order_by(LogLeaf.idx))]
        nodes = select(LogNode.hash).where(
            LogNode.level == level, LogNode.idx >= first, LogNode.idx < first + count
        )
        return [bytes(each) for each in self.session.scalars(nodes.order_by(LogNode.idx))]

    def entries(self, first: int, count: int) -> list[bytes]:
        """Return entries in order."""
        rows = select(LogLeaf.entry).where(LogLeaf.idx >= first, LogLeaf.idx < first + count)
        return [bytes(each) for each in self.session.scalars(rows.order_by(LogLeaf.idx))]

    def restore(self, first: int, leaves: Sequence[tuple[bytes, bytes]]) -> None:
        """Insert leaves (hash, entry) that a lost database had, from `first` on."""
        rows = [
            {"id": new_id(), "idx": first + i, "leaf_hash": leaf, "entry": entry}
            for i, (leaf, entry) in enumerate(leaves)
        ]
        placed = upsert(LogOutbox).values(rows)
        self.session.execute(
            placed.on_conflict_do_update(
                index_elements=["leaf_hash"], set_={"idx": placed.excluded.idx}, where=LogOutbox.idx.is_(None)
            )
        )
        self.session.execute(
            insert(LogLeaf), [{name: row[name] for name in ("idx", "leaf_hash", "entry")} for row in rows]
        )

    # Checkpoints -----------------------------------------------------------------------------------

    def commit(self, checkpoint: Checkpoint) -> None:
        """Insert a checkpoint over what is in this transaction."""
        self.session.add(
            LogCheckpoint(size=checkpoint.size, root=checkpoint.root, body=checkpoint.text, state=COMMITTED)
        )
        self.session.flush()

    def newest(self, *, published: bool = False) -> LogCheckpoint | None:
        """Return the checkpoint of the largest size; `published`: of those that everybody may see."""
        found = select(LogCheckpoint).order_by(LogCheckpoint.size.desc()).limit(1)
        if published:
            found = found.where(LogCheckpoint.state == PUBLISHED)
        return self.session.scalars(found.execution_options(populate_existing=True)).first()

    def first_over(self, index: int) -> LogCheckpoint | None:
        """Return the first published checkpoint that covers a leaf."""
        return self.session.scalars(
            select(LogCheckpoint)
            .where(LogCheckpoint.state == PUBLISHED, LogCheckpoint.size > index)
            .order_by(LogCheckpoint.size)
            .limit(1)
        ).first()

    def sign(self, size: int, note: str) -> None:
        """Keep the log's note of a committed checkpoint; who signed before has made the same bytes."""
        self.session.execute(
            update(LogCheckpoint)
            .where(LogCheckpoint.size == size, LogCheckpoint.state == COMMITTED)
            .values(note=note, state=SIGNED)
        )

    def publish(self, size: int, *, at: datetime) -> None:
        """Show a signed checkpoint to everybody, unless a larger one was shown since."""
        larger = aliased(LogCheckpoint)
        self.session.execute(
            update(LogCheckpoint)
            .where(
                LogCheckpoint.size == size,
                LogCheckpoint.state == SIGNED,
                ~exists().where(larger.state == PUBLISHED, larger.size > size),
            )
            .values(state=PUBLISHED, published_at=at)
        )

    def cosign(self, size: int, witness: str, line: str, *, at: datetime) -> None:
        """Keep a witness's line; its first for a checkpoint stays."""
        self.session.execute(
            upsert(LogCosignature)
            .values(size=size, witness=witness, line=line, signed_at=at)
            .on_conflict_do_nothing()
        )

    def cosignatures(self, size: int) -> Mapping[str, str]:
        """Return the lines under a checkpoint by witness."""
        rows = self.session.execute(
            select(LogCosignature.witness, LogCosignature.line)
            .where(LogCosignature.size == size)
            .order_by(LogCosignature.witness)
        )
        return dict(iter(rows))

    def seen_by(self, witnesses: Collection[str]) -> Mapping[str, int]:
        """Return the largest size that each witness has cosigned."""
        rows = self.session.execute(
            select(LogCosignature.witness, func.max(LogCosignature.size))
            .where(LogCosignature.witness.in_(witnesses))
            .group_by(LogCosignature.witness)
        )
        return dict(iter(rows))
