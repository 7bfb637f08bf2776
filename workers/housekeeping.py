"""What nobody asks for and somebody must do: unheard bells, what is due, what must be destroyed.

Each duty is small, safe to run in several workers at once, and safe to be killed in: it asks
Postgres what is to be done, does it, and says so. Knows no weights and no stage.
"""

import logging
from uuid import UUID

from app import queue
from app.jobs import service as jobs
from app.queue import Stage
from app.registry import service as registry
from app.serving import service as serving
from workers.context import Context

_log = logging.getLogger(__name__)


def sweep(context: Context) -> None:
    """Do every duty once; one that fails does not keep the others from being done."""
    for duty in (relay, destroy_condemned, converge):
        try:
            duty(context)
        except Exception as error:  # noqa: BLE001  each duty depends on another server; all come round again
            _log.warning("%s failed: %s", duty.__name__, type(error).__name__)


def relay(context: Context) -> int:
    """Ring again what nobody has answered; return how many bells that were."""
    return queue.relay(context.transaction, context.poke)


def due(context: Context) -> list[tuple[Stage, UUID]]:
    """Return what a worker should run now, whether or not a bell was heard."""
    with context.transaction() as session:
        return jobs.due(session, now=context.clock())
