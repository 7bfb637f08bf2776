"""After a backup was restored: what the database has forgotten, and what must not stay forgotten (R68).

    stop everything ─▶ restore ─▶ lethe restore-check ─▶ lethe restore-check --apply ─▶ start
                                  what is missing         the chain whole again, and what follows from it

The copy of the audit chain (`app.audit.archive`) tells what was done since the backup, by ids alone. So
`apply` puts the events back where they were and lets these facts count again:

    a request was withdrawn        it is withdrawn: nobody erases what was taken back
    a key was revoked              it opens nothing
    a request was purged           its data key is destroyed again
    anything else befell it        back to where a person approves, with `attention` "restored": holds,
                                   exemptions and approvals since are lost, and an erasure must not rest
                                   on what they said before
    its erasure had begun          it goes on; `attention` tells a person
    a version went live            its line is frozen: nothing is begun, served or destroyed

Why frozen: the database names as live a version that is not, which may hold who was erased since, and
what it takes for garbage may be a part of the one that is. The model servers go on with what they have.
A person resumes the line, best after its requests are approved again: the next job starts from what is
known here, and what it leaves out is what they name. Nothing that is known here is served before, if
anybody was erased since, as the line's epochs go on from where the chain says they were.

A request that came in since is lost with all that was known of the person: its id and dates are
listed, so that whoever sent it can be asked again. The published certificates stand; the log has them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.audit import archive, events
from app.audit import service as audit
from app.audit.archive import Archive, Copied, Standing
from app.auth import service as auth
from app.erasure import steps
from app.erasure.forgetting import sealed
from app.erasure.lifecycle import ENDS, State, begun
from app.erasure.repository import ErasureRequests
from app.errors import NotFound
from app.http import ids
from app.registry import service as registry
from app.registry.service import Unknown
from app.storage.database import Session

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REASON = "restored"


@dataclass(frozen=True, kw_only=True)
class LostRequest:
    """A request of which only the chain's copy knows."""

    id: UUID
    received_at: datetime
    due_on: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a restored database lacks."""

    standing: Standing
    here: int
    copied: int
    common: int
    """Up to which event both agree."""
    kinds: Mapping[str, int]
    """How many events of each kind are missing."""
    lost: tuple[LostRequest, ...]
    touched: tuple[UUID, ...]
    """Requests that are here and went on since."""
    published: tuple[str, ...]
    """Versions that went live since: their models must be looked at."""
    frozen: tuple[UUID, ...]
    """The lines of these that are here."""
    holds: tuple[str, ...]
    """Legal holds placed since: they are to be placed again."""


def examine(session: Session, copy: Archive) -> Findings:
    """Say what the database lacks; change nothing."""
    standing = archive.standing(session, copy)
    here = audit.last(session)
    common = here if standing is not Standing.FORKED else archive.common(session, copy)
    missing = [] if standing is Standing.WHOLE else list(copy.after(common))
    return _findings(session, copy, missing, standing=standing, here=here, common=common)


def apply(session: Session, copy: Archive, *, at: datetime) -> Findings:
    """Put back what the chain says and let it count; the same again finds nothing to do.

    Raises:
        Conflict: something was written since the backup was restored.
    """
    here = audit.last(session)
    missing = archive.restore(session, copy)
    standing = Standing.BEHIND if missing else Standing.WHOLE
    found = _findings(session, copy, missing, standing=standing, here=here, common=here)
    if not missing:
        return found
    withdrawn = {_request(each) for each in _of(missing, events.RequestWithdrawn.KIND)}
    for request_id in found.touched:
        _let_count(session, request_id, withdrawn=request_id in withdrawn, at=at)
    for each in _of(missing, events.RequestPurged.KIND):
        if _request(each) in found.touched:
            sealed.destroy(session, _request(each), at=at)
    for each in _of(missing, events.KeyRevoked.KIND):
        with suppress(NotFound):  # it was made since, too
            auth.revoke_key(session, ids.decode("key", str(each.said["key"])), at=at)
    for model_id, unknown in _went_live(missing).items():
        if model_id in found.frozen:
            registry.freeze(session, model_id, unknown, reason=REASON, at=at)
    backup = copy.hash_of(found.here).hex()
    audit.record(session, events.DatabaseRestored(backup, found.here, found.copied, len(found.lost), at))
    return found


def _let_count(session: Session, request_id: UUID, *, withdrawn: bool, at: datetime) -> None:
    request = steps.locked(session, request_id)
    if request.state in ENDS:
        return
    if begun(steps.stages(ErasureRequests(session).targets([request.id]))):
        steps.attend(session, request, REASON, at=at)
        return
    if withdrawn:
        steps.move(session, request, State.WITHDRAWN, at=at)
        request.concluded_at, request.attention = at, None
        return
    if request.state in {State.AWAITING_APPROVAL, State.SCHEDULED}:
        steps.search_again(session, request, at=at)
    if request.state not in ENDS:
        steps.attend(session, request, REASON, at=at)


def _findings(
    session: Session, copy: Archive, missing: list[Copied], *, standing: Standing, here: int, common: int
) -> Findings:
    named = list(dict.fromkeys(_request(each) for each in missing if "request" in each.said))
    known = {each for each in named if ErasureRequests(session).get(each) is not None}
    received = _of(missing, events.RequestReceived.KIND)
    return Findings(
        standing=standing,
        here=here,
        copied=copy.head().seq,
        common=common,
        kinds=dict(Counter(str(each.said["kind"]) for each in missing)),
        lost=tuple(
            LostRequest(
                id=_request(each),
                received_at=EPOCH + timedelta(microseconds=int(each.said["at"])),
                due_on=str(each.said["due_on"]),
            )
            for each in received
            if _request(each) not in known
        ),
        touched=tuple(each for each in named if each in known),
        published=tuple(str(each.said["version"]) for each in _of(missing, events.VersionPublished.KIND)),
        frozen=registry.known(session, _went_live(missing)),
        holds=tuple(str(each.said["hold"]) for each in _of(missing, events.HoldPlaced.KIND)),
    )


def _went_live(missing: Iterable[Copied]) -> dict[UUID, Unknown]:
    """Return by line the version that went live last."""
    return {
        ids.decode("mdl", str(each.said["model"])): Unknown(
            version=ids.decode("mv", str(each.said["version"])),
            publish_epoch=int(each.said["publish_epoch"]),
            erasure_epoch=int(each.said["erasure_epoch"]),
        )
        for each in _of(missing, events.VersionPublished.KIND)
    }


def _of(missing: Iterable[Copied], kind: str) -> list[Copied]:
    return [each for each in missing if each.said["kind"] == kind]


def _request(event: Copied) -> UUID:
    return ids.decode("er", str(event.said["request"]))
