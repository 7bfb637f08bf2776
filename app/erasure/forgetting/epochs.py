"""The weekly keys as work to be done: what is still in use is wrapped anew, and old keys are destroyed.

    rewrap     data keys of an old week get this week's key, some at a time
    retire     a week that wraps nothing any more loses its row: nothing can be wrapped by it again
    destroy    the file of an old week without a row is overwritten and removed

In this order, each in a transaction of its own; whoever is killed between two of them leaves work for
the next call, and in any other order they do nothing: a row that is referred to cannot go, and a file
whose row is there is not touched. What is sealed meanwhile gets this week's key.
"""

from datetime import date

from app import retention, telemetry
from app.audit import events
from app.audit import service as audit
from app.clock import Clock
from app.erasure.forgetting import sealed
from app.erasure.forgetting.repository import Secrets
from app.failpoints import reach
from app.storage.database import Session, Transaction
from app.storage.epochs import Epoch, EpochDestroyed, EpochKeys, monday
from app.storage.sealing import SealBroken

BATCH_KEYS = 200

_log = telemetry.logger("epochs")


def renew(transaction: Transaction, keys: EpochKeys, *, clock: Clock) -> int:
    """Wrap anew what older keys still wrap, and destroy those keys; return how many were destroyed."""
    horizon = oldest(clock().date())
    with transaction() as session:
        old = [Epoch(row.week, row.id) for row in Secrets(session).epochs() if row.week < horizon]
    for epoch in old:
        try:
            _renew(transaction, epoch, clock=clock)
        except (EpochDestroyed, SealBroken) as error:
            # Its file is elsewhere, or gone: nothing is destroyed on a guess, and the others go on.
            _log.error("epoch-unusable", week=epoch.week.isoformat(), **telemetry.failure(error))
    return destroy(transaction, keys, horizon)


def oldest(today: date) -> date:
    """Return the first week whose key is young enough to be left alone."""
    return monday(today) - retention.POLICY.epochs


def rewrap(session: Session, epoch: Epoch, *, limit: int = BATCH_KEYS) -> int:
    """Wrap some of the data keys of a week by this week's key; return how many.

    Rows are locked, so whoever destroys a data key at the same time has done so before or does so after.
    """
    rows = Secrets(session).wrapped_by(epoch.id, limit=limit)
    if rows:
        old = sealed.epoch_keys(session).read(epoch)
        new, kek = sealed.wrapping(session)
        if new == epoch:
            return 0  # a clock that says so asks for it, and another that it is this week's
        for row in rows:
            assert row.data_key is not None, "what is wrapped is there"
            key = sealed.unwrapped(old, row.request_id, bytes(row.data_key))
            row.epoch_id, row.data_key = new.id, sealed.wrapped(kek, row.request_id, key)
        session.flush()
    return len(rows)


def retire(session: Session, epoch: Epoch) -> bool:
    """Let a week go that wraps nothing; False if it still does, or went before."""
    return Secrets(session).drop_epoch(epoch.id)


def destroy(transaction: Transaction, keys: EpochKeys, horizon: date) -> int:
    """Destroy the files of weeks before the horizon that nothing can be wrapped by; return how many."""
    with transaction() as session:
        in_use = {row.id for row in Secrets(session).epochs()}
    gone = [epoch for epoch in keys.held() if epoch.week < horizon and epoch.id not in in_use]
    for epoch in gone:
        keys.destroy(epoch)
        reach("epochs.destroyed")
    return len(gone)


def _renew(transaction: Transaction, epoch: Epoch, *, clock: Clock) -> None:
    rewrapped = 0
    while True:
        with transaction() as session:
            some = rewrap(session, epoch)
        reach("epochs.rewrapped")
        if not some:
            break
        rewrapped += some
    with transaction() as session:
        if retire(session, epoch):
            audit.record(session, events.EpochRetired(epoch.week.isoformat(), rewrapped, clock()))
    reach("epochs.retired")
