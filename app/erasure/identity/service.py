"""Codes: asked for, sent, guessed at, used up.

    ask        a challenge, without a code; a bell for the courier
    deliver    the worker draws the code, keeps its HMAC, and only then sends it
    knows      one guess: the attempt is committed, then the code compared
    prove      the code is used up, and the request goes on

Killed between drawing and sending, the next try draws another code, and the one before is worth nothing.
"""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app import failpoints, queue, retention, telemetry
from app.audit import events
from app.audit import service as audit
from app.clock import Clock
from app.erasure import steps, timing
from app.erasure.forgetting import sealed
from app.erasure.identity.courier import Courier, Letter, Undelivered
from app.erasure.identity.repository import Challenges
from app.erasure.lifecycle import State
from app.erasure.repository import ErasureRequests
from app.erasure.steps import Expected, View
from app.errors import Conflict, Forbidden, Gone, Invalid, NotFound, Unavailable
from app.http import ids
from app.queue import Stage
from app.records import content
from app.storage.database import Session, Transaction
from app.tables import IdentityChallenge

DIGITS = 8
LASTS = timedelta(minutes=15)
ATTEMPTS_MAX = 5
HOUR = timedelta(hours=1)
CODES_PER_HOUR, KNOCKS_PER_HOUR = 3, 20
CLAIM = timedelta(seconds=90)
"""Longer than a letter can take."""
BATCH = 32
AGAIN_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1))
"""How long after each letter that did not leave the next one comes; after the last there is none."""
KEPT = retention.POLICY.codes
METHOD = "one_time_code"
NO_COURIER, BY_HAND, UNDELIVERED = "no_courier", "identity_by_hand", "code_undelivered"
"""Why an officer is asked for instead."""
assert {NO_COURIER, BY_HAND, UNDELIVERED} == timing.IDENTITY_REASONS

_NO_MAC = bytes(32)
_log = telemetry.logger("identity")


class CodeRefused(Forbidden):
    """It is not this request's code, or no longer; or there is no such request: nobody learns which."""

    code = "code-refused"

    def __init__(self) -> None:
        """Say the same of everything."""
        super().__init__("this code does not prove this request; it may be over, or used up")


class TooMany(Unavailable):
    """As many codes were asked for, or guessed, as an hour has room for."""

    code = "rate-limited"

    def __init__(self, *, retry_after: int) -> None:
        """Say when there is room again."""
        super().__init__(f"too many codes; there is room in {retry_after} s")
        self.retry_after = retry_after


# What people and their portals do ----------------------------------------------------------------


def begin(session: Session, request_id: UUID, *, at: datetime) -> None:
    """Challenge whoever asks, as the source does not vouch for them.

    Only where it says who they are. Of a request that names records, or people by keyed hashes as a file's
    are, nobody can be sent anything: it needs an officer (`BY_HAND`).
    """
    _challenge(session, request_id, at=at)


def ask(session: Session, request_id: UUID, *, at: datetime) -> int:
    """Ask for another code; the one before counts until the new one is drawn. Return how many are left.

    Raises:
        NotFound, Conflict: if nobody doubts who asks for this one.
        TooMany: if there were three in the last hour.
    """
    request = steps.locked(session, request_id)
    if request.state != State.IDENTITY_PENDING:
        raise Conflict("nobody doubts the identity", code="identity-not-doubted")
    challenges = Challenges(session)
    asked = challenges.asked_since(request_id, at - HOUR)
    if len(asked) >= CODES_PER_HOUR:
        raise TooMany(retry_after=_seconds(asked[0] + HOUR - at))
    _challenge(session, request_id, at=at)
    return CODES_PER_HOUR - len(asked) - 1


def ask_quietly(session: Session, request_id: UUID, *, at: datetime) -> None:
    """Ask for another code where nobody learns whether there is such a request, or room for a code."""
    try:
        ask(session, request_id, at=at)
    except (NotFound, Conflict, TooMany):
        return


def knows(transaction: Transaction, secret: bytes, request_id: UUID, code: str, *, at: datetime) -> UUID:
    """Return the challenge that a code answers, having counted the guess before it was looked at.

    In transactions of its own: whatever becomes of the call, the guess was made.

    Raises:
        CodeRefused: for every other request, known or not.
    """
    with transaction() as session:
        guess = Challenges(session).spend(request_id, attempts_max=ATTEMPTS_MAX, at=at)
    failpoints.reach("identity.spent")
    challenge_id, held = guess if guess is not None else (request_id, _NO_MAC)
    right = hmac.compare_digest(held, _mac(secret, challenge_id, code))
    if guess is None or not right:
        if guess is not None:
            with transaction() as session:
                audit.record(session, events.IdentityRefused(request_id, at))
        raise CodeRefused
    return challenge_id


def prove(
    session: Session,
    request_id: UUID,
    challenge_id: UUID,
    *,
    by: UUID | None,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Use a code up that was known; `by` is whose key brought it, nobody where the person did.

    Raises:
        CodeRefused: if another call has used it, or another code was drawn meanwhile.
    """
    request = steps.locked(session, request_id, expecting=expecting)
    used = Challenges(session).end(challenge_id, how="proven", at=at)
    if not used or request.state != State.IDENTITY_PENDING:
        raise CodeRefused
    return timing.accept(session, request, method=METHOD, by=by, at=at)


def may_speak_for(session: Session, request_id: UUID, *, principal_id: UUID) -> None:
    """Refuse a source that did not submit a request to speak for its person; nobody learns that it exists."""
    request = ErasureRequests(session).get(request_id)
    if request is None or request.submitted_by != principal_id:
        raise NotFound("there is no such request")


def knock(transaction: Transaction, secret: bytes, address: str, *, at: datetime) -> None:
    """Count a call that nobody's key vouches for, by a keyed hash of where it comes from.

    In Postgres, and one at a time for each address: a count that is away refuses, and none is missed.

    Raises:
        TooMany: if it is one more than an hour has room for.
    """
    mac = hmac.digest(secret, b"lethe/knock/v1\0" + address.encode(), "sha256")
    with transaction() as session:
        knocks = Challenges(session).knocks(mac, since=at - HOUR)
        if len(knocks) >= KNOCKS_PER_HOUR:
            raise TooMany(retry_after=_seconds(knocks[0] + HOUR - at))
        Challenges(session).add_knock(mac, at=at)


# What the worker does ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sender:
    """What sending needs."""

    transaction: Transaction
    courier: Courier | None
    secret: bytes
    clock: Clock


def due(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return the challenges whose code is to be sent now."""
    return Challenges(session).due(at=now, limit=BATCH)


def deliver(sender: Sender) -> int:
    """Draw and send every code that is due; return how many letters left."""
    sent = 0
    while claimed := _claim(sender):
        sent += sum(_attempt(sender, challenge_id) for challenge_id in claimed)
    return sent


def forget(session: Session, *, now: datetime) -> int:
    """Delete knocks that are an hour old and challenges of a day ago; return how many."""
    return Challenges(session).forget(knocked_before=now - HOUR, asked_before=now - KEPT)


def _claim(sender: Sender) -> Sequence[UUID]:
    with sender.transaction() as session:
        at = sender.clock()
        claimed = Challenges(session).claim(at=at, until=at + CLAIM, limit=BATCH)
        for each in claimed:
            queue.heard(session, Stage.CHALLENGE, each)
    return claimed


def _attempt(sender: Sender, challenge_id: UUID) -> bool:
    """Draw, keep, send, say so; nothing is open while the letter is under way."""
    with sender.transaction() as session:
        letter = _drawn(session, sender, challenge_id)
    failpoints.reach("identity.drawn")
    if letter is None or sender.courier is None:
        return False
    try:
        sender.courier.send(letter)
    except Undelivered as failure:
        _log.warning("code undelivered", request=letter.reference, code=failure.code)
        with sender.transaction() as session:
            _undelivered(session, challenge_id, failure, at=sender.clock())
        return False
    failpoints.reach("identity.sent")
    with sender.transaction() as session:
        at = sender.clock()
        challenge = Challenges(session).locked(challenge_id)
        if challenge is not None and challenge.sent_at is None:
            challenge.sent_at = at
            audit.record(session, events.IdentityChallenged(challenge.request_id, at))
    return True


def _drawn(session: Session, sender: Sender, challenge_id: UUID) -> Letter | None:
    """Draw the code of a challenge and keep its HMAC; None where there is no way, and an officer is asked."""
    at, challenges = sender.clock(), Challenges(session)
    found = challenges.get(challenge_id)
    assert found is not None, "it was claimed"
    request = steps.locked(session, found.request_id)
    challenge = challenges.locked(challenge_id)
    if challenge is None or challenge.ended_at is not None or challenge.sent_at is not None:
        return None
    if request.state != State.IDENTITY_PENDING:
        challenges.end(challenge.id, how="stopped", at=at)
        return None
    if challenges.newer(challenge):
        challenges.end(challenge.id, how="superseded", at=at)
        return None
    address = _mailbox(session, request.id)
    if address is None or sender.courier is None:
        challenges.end(challenge.id, how="failed", at=at)
        steps.attend(session, request, BY_HAND if address is None else NO_COURIER, at=at)
        return None
    code = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
    challenges.supersede(request.id, besides=challenge.id, at=at)
    challenge.code_mac, challenge.expires_at = _mac(sender.secret, challenge.id, code), at + LASTS
    session.flush()
    return Letter(
        address=address,
        code=code,
        reference=ids.encode("er", request.id),
        minutes=int(LASTS.total_seconds() // 60),
    )


def _mailbox(session: Session, request_id: UUID) -> str | None:
    """Return the one address that a request names, as it is searched for; None if it names anything else."""
    try:
        known = sealed.identifiers(session, request_id)
        [only] = known
        return content.normalise("email", only["value"]) if only["type"] == "email" else None
    except (NotFound, Gone, Invalid, ValueError, KeyError):
        return None


def _undelivered(session: Session, challenge_id: UUID, failure: Undelivered, *, at: datetime) -> None:
    challenges = Challenges(session)
    found = challenges.get(challenge_id)
    assert found is not None, "a challenge under way is not forgotten"
    request = steps.locked(session, found.request_id)
    challenge = challenges.locked(challenge_id)
    if challenge is None or challenge.ended_at is not None:
        return
    if failure.for_good or challenge.tries > len(AGAIN_AFTER):
        challenges.end(challenge.id, how="failed", at=at)
        if request.state == State.IDENTITY_PENDING:
            steps.attend(session, request, UNDELIVERED, at=at)
    else:
        challenge.next_try_at = at + AGAIN_AFTER[challenge.tries - 1]


def _challenge(session: Session, request_id: UUID, *, at: datetime) -> None:
    made = IdentityChallenge(request_id=request_id, asked_at=at, next_try_at=at)
    Challenges(session).add(made)
    queue.ring(session, Stage.CHALLENGE, made.id)


def _mac(secret: bytes, challenge_id: UUID, code: str) -> bytes:
    """Return what is kept of a code: bound to its challenge, by a key that Postgres does not have."""
    told = b"lethe/code/v1\0" + challenge_id.bytes + code.encode(errors="replace")
    return hmac.digest(secret, told, "sha256")


def _seconds(left: timedelta) -> int:
    return max(1, -(-int(left.total_seconds() * 1000) // 1000))
