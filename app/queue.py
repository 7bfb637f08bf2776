"""The bell: a message is `(stage, id)` and means "look"; Postgres holds what is true.

    ring(session, stage, id)     a row in the outbox, in the caller's transaction
        └── after the commit     poke Redis; best effort, never raises
    heard(session, stage, id)    whoever answers it takes the row away; a copy of it then means nothing
    relay(transaction, poke)     rings again what nobody answered; run by the sweeper

Why: a broker can lose a message and deliver it twice (kombu#305, celery#5935). Rung twice or
never, a bell here is harmless: each stage asks Postgres whether it is due. This is the only module
that knows Celery, and it knows the client alone.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Any, cast
from uuid import UUID

from celery import Celery
from celery.exceptions import OperationalError as KombuError
from sqlalchemy import CursorResult, delete, func, select, update

from app.storage.database import Session, Transaction, after_commit
from app.tables import Outbox

TASK = "lethe.run"
REPEAT_SECONDS = 30
BATCH_ROWS_MAX = 100

Poke = Callable[["Stage", UUID], None]


class Stage(StrEnum):
    """What can be asked of a worker; the id is of what each stage names."""

    REGISTER = "register"
    """Read and register a dataset (dataset id)."""
    SKETCH = "sketch"
    """Sketch the records of a registered dataset, to find near duplicates in it (dataset id)."""
    PREPARE = "prepare"
    """Train what a version lacks: itself, its reference models; then serve it (version id)."""
    PLAN = "plan"
    """Batch what is due for a model into a job (model id)."""
    UNLEARN = "unlearn"
    VERIFY = "verify"
    CERTIFY = "certify"
    PUBLISH = "publish"
    CONCLUDE = "conclude"
    IMPORT = "import"
    """Receive the requests of a file, row by row (import id)."""
    CHALLENGE = "challenge"
    """Draw a one-time code and send it to whoever asks (challenge id)."""
    SEARCH = "search"
    """Look for near duplicates of what a request concerns (request id)."""
    SCAN = "scan"
    """Seek in all texts what people are known by, for this and all other requests that wait (request id)."""
    AUDIT = "audit"
    """Look deeper into what was certified (audit id); nobody rings for it, the sweeper finds it."""

    @property
    def queue(self) -> str:
        """Return the queue whose workers may run this stage."""
        match self:
            case (
                Stage.REGISTER
                | Stage.SKETCH
                | Stage.IMPORT
                | Stage.CHALLENGE
                | Stage.SEARCH
                | Stage.SCAN
                | Stage.PUBLISH
                | Stage.CONCLUDE
            ):
                return "io"
            case Stage.CERTIFY:
                return "signing"
            case _:
                return "gpu"


def ring(session: Session, stage: Stage, id: UUID) -> None:  # noqa: A002  the message's own word
    """Ask for a stage, in the caller's transaction; poke the broker once that has committed."""
    session.add(Outbox(stage=stage.value, target_id=id))
    session.flush()
    poke: Poke | None = session.info.get("poke")
    if poke is not None:
        after_commit(session, lambda: poke(stage, id))


def heard(session: Session, stage: Stage, id: UUID) -> bool:  # noqa: A002  the message's own word
    """Silence a bell that somebody has answered; return whether it was still ringing."""
    rung = session.execute(delete(Outbox).where(Outbox.stage == stage.value, Outbox.target_id == id))
    return cast("CursorResult[Any]", rung).rowcount > 0


def relay(transaction: Transaction, poke: Poke) -> int:
    """Ring again what nobody has answered for half a minute; return how many bells that were.

    The rows are claimed in one short transaction and sent outside of it, so two relays share the
    work and a dead one loses nothing.
    """
    now = func.clock_timestamp()
    unheard = (
        select(Outbox.id)
        .where(Outbox.rung_at < now - timedelta(seconds=REPEAT_SECONDS))
        .order_by(Outbox.rung_at)
        .limit(BATCH_ROWS_MAX)
        .with_for_update(skip_locked=True)
    )
    with transaction() as session:
        rows = session.execute(
            update(Outbox)
            .where(Outbox.id.in_(unheard))
            .values(rung_at=now)
            .returning(Outbox.stage, Outbox.target_id)
        ).all()
    unheard_bells = {(row.stage, row.target_id) for row in rows}
    for stage, target_id in sorted(unheard_bells):
        poke(Stage(stage), target_id)
    return len(unheard_bells)


def celery_poke(redis_url: str | None) -> Poke:
    """Return the poke that puts a message on the stage's Celery queue; without a URL, silence.

    Errors are swallowed by design: the outbox row stays, and the relay or the sweeper will find it.
    """
    if redis_url is None:
        return lambda _stage, _id: None
    client = Celery(broker=broker_url(redis_url), set_as_current=False)
    client.conf.update(
        task_ignore_result=True,
        broker_connection_timeout=2,
        broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2, "max_retries": 1},
    )

    def poke(stage: Stage, id_: UUID) -> None:
        with suppress(KombuError, OSError):
            client.send_task(
                TASK, args=[stage.value, str(id_)], queue=stage.queue, retry=False, ignore_result=True
            )

    return poke


def broker_url(redis_url: str) -> str:
    """Return the URL that Celery wants: `unix://PATH` is `redis+socket://PATH` to it."""
    if redis_url.startswith("unix://"):
        path, _, query = redis_url.removeprefix("unix://").partition("?")
        number = query.removeprefix("db=") or "0"
        return f"redis+socket://{path}?virtual_host={number}"
    return redis_url
