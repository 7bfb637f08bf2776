"""What can be done about webhooks: manage endpoints and their keys, tell what happened, tell it again.

The cursor moves in the transaction that queues the messages, so nothing is told twice or left out by a
crash; what is delivered, and how often it is tried, is in `delivery`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from app import retention
from app.audit import events
from app.audit import service as audit
from app.audit.service import Entry
from app.errors import Conflict, Invalid, NotFound
from app.http import ids, outbound
from app.http.outbound import Answer, Reach
from app.storage import sealing
from app.storage.database import Session
from app.tables import (
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookMessage,
    WebhookSecret,
    new_id,
)
from app.webhooks import kinds, signature
from app.webhooks.repository import PENDING, Claimed, Webhooks
from app.webhooks.signature import Keys

ENDPOINTS_MAX = 100
ROTATION = timedelta(hours=24)
"""How long the keys before still sign beside the new ones."""
GENERATIONS_MAX = 3
FAILING_MAX = timedelta(days=5)
REPLAYED_MAX = 10_000
"""How much of the sequence is looked through by one replay."""
KEPT = retention.POLICY.deliveries
BATCH_EVENTS = 200
GONE = 410


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An endpoint as it is shown: with its public keys, and with its secret only when that is new."""

    endpoint: WebhookEndpoint
    public_keys: tuple[str, ...]
    waiting: int = 0
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A delivery, what it says, and how it was tried."""

    delivery: WebhookDelivery
    message: WebhookMessage
    attempts: tuple[WebhookAttempt, ...] = ()


# What callers do ---------------------------------------------------------------------------------


def create(
    session: Session,
    *,
    url: str,
    wanted: Sequence[str],
    seal: bytes,
    reach: Reach,
    by: UUID,
    at: datetime,
) -> Shown:
    """Have a URL told of what happens from now on; its secret is in this answer alone."""
    _require(url, wanted, reach)
    hooks = Webhooks(session)
    if hooks.count() >= ENDPOINTS_MAX:
        raise Conflict(f"there are {ENDPOINTS_MAX} endpoints already", code="too-many-endpoints")
    endpoint = WebhookEndpoint(
        url=url,
        kinds=sorted(set(wanted)),
        state="active",
        after_seq=audit.last(session),
        created_by=by,
        created_at=at,
    )
    hooks.add(endpoint)
    keys = _new_keys(hooks, endpoint.id, seal, at=at)
    audit.record(session, events.EndpointCreated(endpoint.id, by, tuple(endpoint.kinds), at))
    return Shown(
        endpoint=endpoint,
        public_keys=(signature.shown_public(keys.public),),
        secret=signature.shown_secret(keys.secret),
    )


def read(session: Session, endpoint_id: UUID, *, at: datetime) -> Shown:
    """Return an endpoint."""
    return _shown(Webhooks(session), _endpoint(session, endpoint_id), at=at)


def listing(
    session: Session, *, after: tuple[datetime, UUID] | None, limit: int, at: datetime
) -> list[Shown]:
    """Return the endpoints, newest first."""
    hooks = Webhooks(session)
    return [_shown(hooks, each, at=at) for each in hooks.endpoints(after=after, limit=limit)]


def change(
    session: Session,
    endpoint_id: UUID,
    *,
    url: str | None = None,
    wanted: Sequence[str] | None = None,
    active: bool | None = None,
    reach: Reach,
    by: UUID,
    at: datetime,
) -> Shown:
    """Tell an endpoint elsewhere, of something else, nothing more, or again."""
    endpoint = _locked(session, endpoint_id)
    _require(url or endpoint.url, endpoint.kinds if wanted is None else wanted, reach)
    changed = []
    if url is not None and url != endpoint.url:
        endpoint.url = url
        changed.append("url")
    if wanted is not None and sorted(set(wanted)) != endpoint.kinds:
        endpoint.kinds = sorted(set(wanted))
        changed.append("kinds")
    if changed:
        audit.record(session, events.EndpointChanged(endpoint.id, by, tuple(changed), at))
    if active is False and endpoint.state == "active":
        _disable(session, endpoint, "asked", by=by, at=at)
    if active is True and endpoint.state == "disabled":
        endpoint.state, endpoint.reason, endpoint.failing_since = "active", None, None
        endpoint.after_seq = audit.last(session)
        audit.record(session, events.EndpointEnabled(endpoint.id, by, at))
    session.flush()
    return _shown(Webhooks(session), endpoint, at=at)


def remove(session: Session, endpoint_id: UUID, *, by: UUID, at: datetime) -> None:
    """End an endpoint for good and destroy its keys; what it was told stays on record for its time."""
    endpoint = _locked(session, endpoint_id)
    _disable(session, endpoint, "removed", by=by, at=at)
    endpoint.state = "removed"
    Webhooks(session).destroy_secrets(endpoint.id)


def rotate(session: Session, endpoint_id: UUID, *, seal: bytes, by: UUID, at: datetime) -> Shown:
    """Make new keys; those of before sign beside them for a day."""
    endpoint = _locked(session, endpoint_id)
    hooks = Webhooks(session)
    before = hooks.secrets(endpoint.id, at=at)
    if len(before) >= GENERATIONS_MAX:
        raise Conflict("its keys were changed twice within a day", code="rotating")
    for each in before:
        each.expires_at = min(each.expires_at or at + ROTATION, at + ROTATION)
    keys = _new_keys(hooks, endpoint.id, seal, at=at)
    audit.record(session, events.SecretRotated(endpoint.id, by, at))
    shown = _shown(hooks, endpoint, at=at)
    return Shown(
        endpoint=endpoint,
        public_keys=shown.public_keys,
        waiting=shown.waiting,
        secret=signature.shown_secret(keys.secret),
    )


def probe(session: Session, endpoint_id: UUID, *, at: datetime) -> Told:
    """Send an endpoint a message that means nothing."""
    endpoint = _active(session, endpoint_id)
    hooks = Webhooks(session)
    body = kinds.payload(kinds.TEST, seq=None, body={}, at=at)
    message = WebhookMessage(id=new_id(), kind=kinds.TEST, body=body, created_at=at)
    hooks.add(message)
    hooks.deliver(endpoint.id, message.id, subject=ids.encode("msg", message.id), seq=0, at=at)
    return Told(delivery=hooks.delivery_of(endpoint.id, message.id), message=message)


def deliveries(
    session: Session,
    endpoint_id: UUID,
    *,
    state: str | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[Told]:
    """Return what an endpoint was told, newest first."""
    _endpoint(session, endpoint_id)
    found = Webhooks(session).deliveries(endpoint_id, state=state, after=after, limit=limit)
    return [Told(delivery=row[0], message=row[1]) for row in found]


def delivery(session: Session, endpoint_id: UUID, delivery_id: UUID) -> Told:
    """Return a delivery with its attempts."""
    hooks, found = Webhooks(session), _delivery(session, endpoint_id, delivery_id)
    message = hooks.message(found.message_id)
    assert message is not None, "a delivery is of a message"
    return Told(delivery=found, message=message, attempts=tuple(hooks.attempts(found.id)))


def redeliver(session: Session, endpoint_id: UUID, delivery_id: UUID, *, by: UUID, at: datetime) -> Told:
    """Deliver a message once more, under the id that it has."""
    endpoint = _active(session, endpoint_id)
    found = _delivery(session, endpoint.id, delivery_id)
    if found.state == PENDING:
        raise Conflict("it is being delivered", code="not-possible-now")
    Webhooks(session).deliver(
        endpoint.id, found.message_id, subject=found.subject, seq=found.seq, at=at, again=True
    )
    audit.record(session, events.DeliveriesReplayed(endpoint.id, by, 1, at))
    session.refresh(found)
    return delivery(session, endpoint.id, found.id)


def replay(session: Session, endpoint_id: UUID, *, first: int, last: int, by: UUID, at: datetime) -> int:
    """Deliver what happened from one place of the sequence to another, once more or at last.

    Read from the audit sequence itself: also what happened before the endpoint was there, or while it
    was disabled. Return how many messages that are.
    """
    endpoint = _active(session, endpoint_id)
    last = min(last, audit.last(session))
    if last - first >= REPLAYED_MAX:
        raise Invalid(
            f"a replay goes over {REPLAYED_MAX} places of the sequence at most",
            errors=[("/to_sequence", "range-too-long")],
        )
    hooks, place, count = Webhooks(session), first - 1, 0
    while place < last and (found := audit.since(session, place, limit=BATCH_EVENTS)):
        for entry in found:
            if entry.seq <= last and kinds.wants(endpoint.kinds, entry.kind):
                _queue(hooks, entry, [endpoint], at=at, again=True)
                count += 1
        place = found[-1].seq
    audit.record(session, events.DeliveriesReplayed(endpoint.id, by, count, at))
    return count


# What the worker does ----------------------------------------------------------------------------


def tell(session: Session, *, at: datetime) -> int:
    """Queue what has happened for whoever wants it; return how far the sequence was read on.

    The sequence is read before the endpoints: one that is made in between sees what follows it later.
    """
    hooks = Webhooks(session)
    cursor = hooks.cursor()
    if cursor is None:
        return 0
    head, found = audit.last(session), audit.since(session, cursor.seq, limit=BATCH_EVENTS)
    endpoints = hooks.active()
    before = cursor.seq
    for entry in found:
        wanting = [
            each for each in endpoints if each.after_seq < entry.seq and kinds.wants(each.kinds, entry.kind)
        ]
        if wanting:
            _queue(hooks, entry, wanting, at=at)
    cursor.seq = found[-1].seq if found and endpoints else max(head, cursor.seq)
    session.flush()
    return cursor.seq - before


def keys_of(session: Session, endpoint_id: UUID, *, seal: bytes, at: datetime) -> list[Keys]:
    """Return the keys that sign for an endpoint now, the newest first."""
    return [
        Keys(
            secret=sealing.unseal(seal, bytes(row.sealed_secret), about=_about(row.id, "v1")),
            private=sealing.unseal(seal, bytes(row.sealed_key), about=_about(row.id, "v1a")),
        )
        for row in Webhooks(session).secrets(endpoint_id, at=at)
    ]


def settle(session: Session, claimed: Claimed, answer: Answer, *, at: datetime) -> str:
    """Write down how an attempt ended, and what follows: nothing, another one, or the endpoint's end.

    An attempt that took so long that another one was begun is kept as evidence and decides nothing,
    unless the endpoint has taken the message: that is true whoever asked.
    """
    hooks = Webhooks(session)
    endpoint = hooks.locked(claimed.endpoint_id)
    said = {"status": answer.status, "error": answer.error}
    hooks.attempted(claimed, milliseconds=answer.milliseconds, at=at, **said)
    if endpoint is None or endpoint.state != "active":
        return "stopped"
    if answer.taken:
        endpoint.failing_since = None
        hooks.settle(claimed, state="delivered", ended_at=at, **said)
        return "delivered"
    endpoint.failing_since = endpoint.failing_since or at
    if answer.status == GONE:
        hooks.settle(claimed, state="failed", ended_at=at, **said)
        _disable(session, endpoint, "gone", by=None, at=at)
        return "gone"
    again = outbound.next_attempt(claimed.attempts, answer, at=at)
    if again is not None:
        hooks.settle(claimed, next_at=again, **said)
    elif hooks.settle(claimed, state="failed", ended_at=at, **said):
        message = ids.encode("msg", claimed.message_id)
        audit.record(
            session, events.DeliveryFailed(endpoint.id, message, claimed.attempts, answer.status, at)
        )
    if at - endpoint.failing_since >= FAILING_MAX:
        _disable(session, endpoint, "failing", by=None, at=at)
        return "disabled"
    return "failed" if again is None else "retried"


def forget(session: Session, *, now: datetime) -> int:
    """Delete what was delivered or given up a month ago, and keys whose day is over; return how many."""
    return Webhooks(session).forget(before=now - KEPT, at=now)


# What they are made of ---------------------------------------------------------------------------


def _queue(
    hooks: Webhooks,
    entry: Entry,
    endpoints: Collection[WebhookEndpoint],
    *,
    at: datetime,
    again: bool = False,
) -> None:
    body: Mapping[str, object] = entry.body
    content = kinds.payload(entry.kind, seq=entry.seq, body=body, at=kinds.when(body))
    message_id = hooks.message_of(entry.seq, kind=entry.kind, body=content, at=at)
    subject = next((str(body[name]) for name in ("request", *kinds.IDS) if body.get(name)), entry.kind)
    for endpoint in endpoints:
        hooks.deliver(endpoint.id, message_id, subject=subject, seq=entry.seq, at=at, again=again)


def _disable(
    session: Session, endpoint: WebhookEndpoint, reason: str, *, by: UUID | None, at: datetime
) -> None:
    stopped = Webhooks(session).stop(endpoint.id, at=at)
    endpoint.state, endpoint.reason = "disabled", reason
    session.flush()
    audit.record(session, events.EndpointDisabled(endpoint.id, by, reason, stopped, at))


def _new_keys(hooks: Webhooks, endpoint_id: UUID, seal: bytes, *, at: datetime) -> Keys:
    keys, id_ = Keys.new(), new_id()
    hooks.add(
        WebhookSecret(
            id=id_,
            endpoint_id=endpoint_id,
            sealed_secret=sealing.seal(seal, keys.secret, about=_about(id_, "v1")),
            sealed_key=sealing.seal(seal, keys.private, about=_about(id_, "v1a")),
            public_key=keys.public,
            created_at=at,
        )
    )
    return keys


def _about(secret_id: UUID, algorithm: str) -> str:
    return f"lethe/webhook-secret/v1/{secret_id}/{algorithm}"


def _shown(hooks: Webhooks, endpoint: WebhookEndpoint, *, at: datetime) -> Shown:
    return Shown(
        endpoint=endpoint,
        public_keys=tuple(
            signature.shown_public(bytes(each.public_key)) for each in hooks.secrets(endpoint.id, at=at)
        ),
        waiting=hooks.pending().get(endpoint.id, 0),
    )


def _require(url: str, wanted: Sequence[str], reach: Reach) -> None:
    outbound.require(url, reach, pointer="/url")
    unknown = kinds.unknown(wanted)
    if unknown:
        raise Invalid(
            "these are no kinds of events that are told",
            errors=[(f"/events/{index}", "unknown-kind") for index in unknown],
        )


def _endpoint(session: Session, endpoint_id: UUID) -> WebhookEndpoint:
    found = Webhooks(session).endpoint(endpoint_id)
    if found is None:
        raise NotFound("there is no such endpoint")
    return found


def _locked(session: Session, endpoint_id: UUID) -> WebhookEndpoint:
    found = Webhooks(session).locked(endpoint_id)
    if found is None:
        raise NotFound("there is no such endpoint")
    return found


def _active(session: Session, endpoint_id: UUID) -> WebhookEndpoint:
    found = _locked(session, endpoint_id)
    if found.state != "active":
        raise Conflict("the endpoint is disabled; enable it first", code="endpoint-disabled")
    return found


def _delivery(session: Session, endpoint_id: UUID, delivery_id: UUID) -> WebhookDelivery:
    _endpoint(session, endpoint_id)
    found = Webhooks(session).delivery(delivery_id)
    if found is None or found.endpoint_id != endpoint_id:
        raise NotFound("there is no such delivery")
    return found
