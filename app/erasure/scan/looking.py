"""Whether a scan of all texts is owed to a request, asked with each search for certain matches.

In the caller's transaction, and for new requests in a few statements for all of them. What the identifiers
are, is known here for as long as it takes to count them: those that a text can say, and those that came as
a hash, or as a keyed one alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app import queue
from app.erasure import policy
from app.erasure.forgetting import sealed
from app.erasure.policy import TextScan
from app.erasure.scan.repository import Scans
from app.errors import Gone, NotFound
from app.queue import Stage
from app.records.content import normalise
from app.storage.database import Session
from app.tables import ErasureRequest

SEARCHED, SEARCHING, UNAVAILABLE, WAIVED, OFF = "searched", "searching", "unavailable", "waived", "off"
HASHED = "hashed"
"""Of what the person is known by something came as a hash: that nothing was found of it says nothing."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a person is known by, as far as texts can say it."""

    sought: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Type and normalised value of each."""
    hashed: int = 0


def known(session: Session, request: ErasureRequest) -> Known:
    """Open what a request's person is known by; of what is destroyed, only the keyed hashes are left."""
    rules = policy.load(request.policy).text_scan
    if not (rules.search and request.subject_macs):
        return Known()
    try:
        return _known(rules, sealed.identifiers(session, request.id), keyed=len(request.subject_macs))
    except (NotFound, Gone):
        return _known(rules, (), keyed=len(request.subject_macs))


def first(session: Session, requests: Sequence[ErasureRequest], written: Sequence[bytes | None]) -> list[str]:
    """Return how the index of texts stands for new requests, of whom this is what is about to be sealed."""
    found = []
    for request, listed in zip(requests, written, strict=True):
        rules, keyed = policy.load(request.policy).text_scan, len(request.subject_macs)
        given = () if listed is None else json.loads(listed)
        found.append(_known(rules, given, keyed=keyed) if rules.search and keyed else Known())
    any_texts = any(each.sought for each in found) and bool(Scans(session).datasets())
    return [SEARCHING if each.sought and any_texts else _without(each) for each in found]


def begin(session: Session, requests: Sequence[ErasureRequest], *, at: datetime) -> None:
    """Owe scans to requests, and ring once: who answers reads for all who wait."""
    if requests:
        Scans(session).begin([each.id for each in requests], at=at)
        queue.ring(session, Stage.SCAN, requests[0].id)


def look(session: Session, request: ErasureRequest, *, undecided: int, at: datetime) -> str:
    """Return how the index of texts stands for a request; a scan is begun where one is owed.

    `undecided` is how many of its proposals wait for a person: what goes beyond them waits as well.
    """
    given = known(session, request)
    if not (given.sought or given.hashed):
        return OFF
    scans = Scans(session)
    row = scans.get(request.id)
    if given.sought:
        if row is not None and row.state == "open":
            return UNAVAILABLE if row.tries else SEARCHING
        if row is not None and row.more and undecided:
            return SEARCHING
        if scans.datasets().difference(() if row is None else row.datasets):
            begin(session, [request], at=at)
            return SEARCHING
    return WAIVED if row is not None and row.waived else _without(given)


def _known(rules: TextScan, listed: Sequence[dict[str, str]], *, keyed: int) -> Known:
    if not listed:
        return Known(hashed=keyed)
    mine = [each for each in listed if rules.seeks(each["type"])]
    plain = {(each["type"], normalise(each["type"], each["value"])) for each in mine if "value" in each}
    # What stands before the digits of a number tells it from no other.
    long = [each for each in sorted(plain) if len(each[1].removeprefix("+")) >= rules.characters_least]
    return Known(sought=tuple(long), hashed=sum("sha256" in each for each in mine))


def _without(given: Known) -> str:
    """Return how the index stands where there is nothing left to read."""
    if given.hashed:
        return HASHED
    return SEARCHED if given.sought else OFF
