"""What nobody asks for and somebody must do: unheard bells, what is due, what must be destroyed.

Each duty is small, safe to run in several workers at once, and safe to be killed in: it asks
Postgres what is to be done, does it, and says so. Knows no weights and no stage.
"""

import shutil
from uuid import UUID

from app import processes, queue, telemetry
from app.certificates import service as certificates
from app.http import receipts
from app.jobs import service as jobs
from app.queue import Stage
from app.registry import service as registry
from app.registry import weights
from app.serving import service as serving
from app.signing.keys import KeyUnusable
from app.transparency import service as log
from workers.context import Context

_log = telemetry.logger("housekeeping")


def sweep(context: Context) -> None:
    """Do every duty once; one that fails does not keep the others from being done."""
    for duty in (relay, sequence_log, destroy_condemned, converge, forget, clear_work):
        try:
            duty(context)
        except Exception as error:  # noqa: BLE001  each duty depends on another server; all come round again
            _log.warning("duty failed", part=duty.__name__, **telemetry.failure(error))


def relay(context: Context) -> int:
    """Ring again what nobody has answered; return how many bells that were."""
    return queue.relay(context.transaction, context.poke)


def due(context: Context) -> list[tuple[Stage, UUID]]:
    """Return what a worker should run now, whether or not a bell was heard."""
    with context.transaction() as session:
        return jobs.due(session, now=context.clock())


def sequence_log(context: Context) -> int:
    """Give what waits its place in the public log, and sign it; return how large the published log is.

    Only where the log's key lies: a worker without it leaves this to one that has it.
    """
    settings = context.settings
    try:
        by = log.sequencer(keys_directory=settings.keys, storage=settings.storage, clock=context.clock)
    except KeyUnusable:
        return 0
    return log.sequence(context.transaction, by)


def destroy_condemned(context: Context) -> int:
    """Destroy the weights that must not exist any more; return how many models that were.

    The objects go first and the word of it is written after: killed between the two, the next call
    finds nothing left to remove and writes it.
    """
    with context.transaction() as session:
        doomed = registry.doomed(session)
        manifests, deltas = registry.manifests_in_use(session), registry.deltas_in_use(session)
    for gone in doomed:
        weights.destroy(context.objects, gone, manifests_kept=manifests, deltas_kept=deltas)
        with context.transaction() as session:
            registry.record_destroyed(session, gone, at=context.clock())
    return len(doomed)


def forget(context: Context) -> int:
    """Delete what is kept for a time only: receipts of calls, untaken openings, what killed writers left."""
    with context.transaction() as session:
        now = context.clock()
        gone = receipts.forget(session, now=now) + certificates.forget_openings(session, now=now)
    return gone + context.objects.tidy()


def clear_work(context: Context) -> int:
    """Remove the files of jobs that have ended and of versions that are prepared; return how many folders.

    They hold records and weights that saw them. A killed stage leaves them for its next try; what no
    stage will try again, this removes.
    """
    folders = sorted(context.settings.work.glob("*-*")) if context.settings.work.is_dir() else []
    # Listed first: what is begun after this moment is not in the list.
    with context.transaction() as session:
        running, preparing = jobs.unfinished(session)
    needed = {f"job-{id_}" for id_ in running} | {f"prepare-{id_}" for id_ in preparing}
    ended = [each for each in folders if each.name not in needed]
    for folder in ended:
        shutil.rmtree(folder, ignore_errors=True)
    return len(ended)


def converge(context: Context) -> int:
    """Bring model servers that lost their way back to what is live; return for how many models.

    One worker of this computer at a time: loading a model takes its time, and twice is no better.
    """
    with processes.exclusive(context.settings.home / "locks" / "converge") as alone:
        if not alone:
            return 0
        with context.transaction() as session:
            live = [each.model.id for each in registry.overviews(session) if each.live is not None]
        return sum(
            serving.converge(
                context.transaction,
                context.backends,
                model_id,
                drain_seconds=context.settings.drain_seconds,
                at=context.clock(),
            )
            for model_id in live
        )
