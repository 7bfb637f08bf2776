"""What nobody asks for and somebody must do: unheard bells, what is due, what must be destroyed.

Each duty is small, safe to run in several workers at once, and safe to be killed in: it asks
Postgres what is to be done, does it, and says so. Knows no weights and no stage.
"""

import shutil
from functools import cache
from uuid import UUID

from app import processes, queue, telemetry
from app.audit import archive
from app.audit import service as audit
from app.auth import sessions
from app.certificates import heads, publishing, revoking, stamping
from app.certificates import service as certificates
from app.certificates.stamps import Authority
from app.clock import system_clock
from app.config import Settings
from app.erasure import timing
from app.erasure.forgetting import epochs, purge
from app.erasure.holds import service as holds
from app.erasure.identity import service as identity
from app.erasure.lifecycle import STAGES
from app.erasure.near import service as near
from app.erasure.scan import service as scan
from app.http import ids, receipts
from app.http.outbound import Reach
from app.intake import callbacks, processor
from app.intake import service as intake
from app.intake.bulk import service as bulk
from app.intake.signing import Processor
from app.jobs import scheduling
from app.queue import Stage
from app.records import forgetting as records
from app.records import service as datasets
from app.records.sketching import Sketcher
from app.records.suppression import service as suppression
from app.registry import service as registry
from app.registry import weights
from app.serving import service as serving
from app.signing.keys import KeyUnusable, public_keys
from app.storage.epochs import EpochKeys
from app.transparency import service as log
from app.verification import audits
from app.webhooks import delivery
from app.webhooks import service as webhooks
from workers.context import Context

_log = telemetry.logger("housekeeping")


def sweep(context: Context) -> None:
    """Do every duty once; one that fails does not keep the others from being done.

    In a restored database none: it names versions as live that hold who was erased since, and does not know
    whose weights are still needed.
    """
    if _is_restored(context):
        _log.warning("database restored", part="sweep")
        return
    for duty in (
        relay,
        ship_chain,
        warn_of_deadlines,
        end_holds,
        look_again,
        check_chain,
        bar_records,
        sign_statements,
        sequence_log,
        stamp,
        destroy_condemned,
        converge,
        forget,
        forget_people,
        renew_keys,
        clear_work,
    ):
        try:
            duty(context)
        except Exception as error:  # noqa: BLE001  each duty depends on another server; all come round again
            _log.warning("duty failed", part=duty.__name__, **telemetry.failure(error))


def _is_restored(context: Context) -> bool:
    copy = archive.Archive.of(context.settings.storage)
    try:
        with context.transaction() as session:
            return archive.standing(session, copy) is not archive.Standing.WHOLE
    except Exception as error:  # noqa: BLE001  a database that is away is not a restored one
        _log.warning("duty failed", part="standing", **telemetry.failure(error))
        return False


def relay(context: Context) -> int:
    """Ring again what nobody has answered; return how many bells that were."""
    return queue.relay(context.transaction, context.poke)


def ship_chain(context: Context) -> int:
    """Copy what was committed to the audit chain to where no database restore touches it."""
    return archive.ship(context.transaction, archive.Archive.of(context.settings.storage))


def due(context: Context) -> list[tuple[Stage, UUID]]:
    """Return what a worker should run now, whether or not a bell was heard."""
    with context.transaction() as session:
        due = scheduling.due(session, now=context.clock())
        due += [
            (Stage.CHALLENGE, challenge_id) for challenge_id in identity.due(session, now=context.clock())
        ]
        due += [(Stage.IMPORT, import_id) for import_id in bulk.due(session, now=context.clock())]
        due += [(Stage.SEARCH, request_id) for request_id in near.due(session, now=context.clock())]
        due += [(Stage.SCAN, request_id) for request_id in scan.due(session, now=context.clock())]
        name = Sketcher(context.keyring.sketch).name
        due += [(Stage.SKETCH, id_) for id_ in datasets.to_sketch(session, name=name, now=context.clock())]
        return [*due, *((Stage.AUDIT, audit_id) for audit_id in audits.due(session))]


def warn_of_deadlines(context: Context) -> int:
    """Tell of requests that are near their dates, or past them; return how many were told of."""
    with context.transaction() as session:
        near = timing.to_warn_of(session, now=context.clock())
    told = 0
    for request_id in near:
        with context.transaction() as session:
            days = timing.warn(session, request_id, now=context.clock())
        if days is not None:
            told += 1
            _log.warning("deadline", request=ids.encode("er", request_id), count=days)
    return told


def end_holds(context: Context) -> int:
    """End the legal holds whose time is over; return how many."""
    with context.transaction() as session:
        over = holds.expired(session, now=context.clock())
    ended = 0
    for hold_id in over:
        with context.transaction() as session:
            ended += holds.expire(session, hold_id, now=context.clock())
    return ended


def look_again(context: Context) -> int:
    """Search again for the requests for which an index was away that is there now; return how many."""
    with context.transaction() as session:
        waiting = near.to_look_at_again(session)
    for request_id in waiting:
        with context.transaction() as session:
            near.look_again(session, request_id, at=context.clock())
    return len(waiting)


def check_chain(context: Context) -> int:
    """Recompute the audit chain as far as that is due; return how many events it has come to."""
    with context.transaction() as session:
        found = audit.check(session, at=context.clock())
    if found is None:
        return 0
    if found.broken_at is not None:
        _log.error("audit chain broken", count=found.broken_at)
    return found.events


def bar_records(context: Context) -> int:
    """Put what is being erased on the suppression list while it can be read; return how many records."""
    keys = context.keyring
    return suppression.bar(
        context.transaction,
        states=STAGES,
        content_key=keys.content,
        key=keys.suppression,
        clock=context.clock,
    )


def sign_statements(context: Context) -> int:
    """Sign what waits for the issuer's keys: publications, what does not stand, where the chain is, the keys.

    Only where these keys lie; return how many statements were made.
    """
    settings, transaction = context.settings, context.transaction
    try:
        signed = publishing.sign(transaction, directory=settings.keys, objects=context.objects)
        signed += revoking.renew(
            transaction, directory=settings.keys, issuer=settings.issuer, clock=context.clock
        )
        signed += heads.state(
            transaction, directory=settings.keys, issuer=settings.issuer, clock=context.clock
        )
    except KeyUnusable:
        return 0
    with transaction() as session:
        certificates.log_keys_stated(session, directory=settings.keys)
    return signed


def stamp(context: Context) -> int:
    """Take the time stamps that certificates lack; return over how many. Only where an authority is named."""
    settings = context.settings
    if settings.tsa_url is None or settings.tsa_roots is None:
        return 0
    authority = Authority.at(settings.tsa_url, settings.tsa_roots)
    return stamping.stamp(context.transaction, authority, public_keys=public_keys(settings.keys))


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
        manifests, apart = registry.manifests_in_use(session), registry.apart_in_use(session)
    for gone in doomed:
        weights.destroy(context.objects, gone, manifests_kept=manifests, apart_kept=apart)
        with context.transaction() as session:
            registry.record_destroyed(session, gone, at=context.clock())
    return len(doomed)


def forget(context: Context) -> int:
    """Delete what is kept for a time only: receipts, openings, sessions, deliveries, leavings of writers."""
    with context.transaction() as session:
        now = context.clock()
        gone = receipts.forget(session, now=now) + certificates.forget_openings(session, now=now)
        gone += webhooks.forget(session, now=now) + intake.forget(session, now=now)
        gone += bulk.forget(session, now=now) + sessions.forget(session, now=now)
        gone += identity.forget(session, now=now)
    return gone + context.objects.tidy()


def forget_people(context: Context) -> int:
    """Purge requests that ended long ago, then rows of records that were erased; return how many of both.

    Each request is purged by itself: one that cannot be does not keep the others.
    """
    clock = context.clock
    with context.transaction() as session:
        due = purge.due(session, now=clock())
    gone = 0
    for request_id in due:
        with context.transaction() as session:
            gone += purge.purge(session, request_id, at=clock())
    with context.transaction() as session:
        purge.unlink(session)
        gone += records.forget(session, lottery_key=context.keyring.lottery, now=clock())
    with context.transaction() as session:
        return gone + purge.delete(session, now=clock())


def renew_keys(context: Context) -> int:
    """Wrap what is still sealed by this week's key, and destroy the old weeks'; return how many of those."""
    keys = EpochKeys(context.settings.epochs, clock=context.clock)
    return epochs.renew(context.transaction, keys, clock=context.clock)


def tell(context: Context) -> int:
    """Tell whoever wants to know what has happened, and what is still to be told; return how many calls.

    Apart from the other duties: a receiver that does not answer holds nothing up but what follows here.
    """
    reach = _reach(context.settings)
    told = delivery.run(
        delivery.Sender(
            transaction=context.transaction, seal=context.keyring.webhooks, reach=reach, clock=context.clock
        )
    )
    identity = _processor(context.settings)
    if identity is None:
        return told
    return told + callbacks.run(
        callbacks.Sender(
            transaction=context.transaction, processor=identity, reach=reach, clock=context.clock
        )
    )


def clear_work(context: Context) -> int:
    """Remove the files of jobs that have ended and of versions that are prepared; return how many folders.

    They hold records and weights that saw them. A killed stage leaves them for its next try; what no
    stage will try again, this removes.
    """
    folders = sorted(context.settings.work.glob("*-*")) if context.settings.work.is_dir() else []
    # Listed first: what is begun after this moment is not in the list.
    with context.transaction() as session:
        running, preparing = scheduling.unfinished(session)
        audited = audits.unfinished(session)
    needed = {f"job-{id_}" for id_ in running} | {f"prepare-{id_}" for id_ in preparing}
    needed |= {f"audit-{id_}" for id_ in audited}
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


@cache
def _reach(settings: Settings) -> Reach:
    """Return where calls may go; made once, as the list of authorities is long."""
    return Reach.of(settings)


@cache
def _processor(settings: Settings) -> Processor | None:
    """Return who we are to OpenDSR's controllers; read once."""
    return processor.of(settings, clock=system_clock)
