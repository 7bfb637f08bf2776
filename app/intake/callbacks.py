"""Tell controllers what has become of their requests: claim, sign and call, record.

Every attempt sends the same bytes with the same signature, so a controller that has one already can
see that. Two short transactions, and none open during the call.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from app import telemetry
from app.clock import Clock
from app.http import ids, outbound
from app.http.outbound import Reach
from app.intake import opendsr, service
from app.intake.repository import Intake, Owed
from app.intake.signing import Processor
from app.storage.database import Transaction

CLAIM = timedelta(seconds=60)
BATCH = 16
THREADS = 4

_log = telemetry.logger("opendsr")


@dataclass(frozen=True, kw_only=True)
class Sender:
    """What sending needs."""

    transaction: Transaction
    processor: Processor
    reach: Reach
    clock: Clock


def run(sender: Sender) -> int:
    """Queue what has changed and call back what is due; return how many calls were made."""
    while True:
        with sender.transaction() as session:
            if not service.tell(session, at=sender.clock()):
                break
    with sender.transaction() as session:
        at = sender.clock()
        owed = Intake(session).claim(at=at, until=at + CLAIM, limit=BATCH)
    if owed:
        with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="callback") as threads:
            for ended in [threads.submit(_call, sender, each) for each in owed]:
                ended.result()
    return len(owed)


def body_of(owed: Owed, *, domain: str) -> bytes:
    """Return the bytes of a callback."""
    said = opendsr.status_body(service.standing_of(owed), domain=domain, callback_url=owed.url)
    return json.dumps(said, separators=(",", ":"), ensure_ascii=True).encode()


def _call(sender: Sender, owed: Owed) -> None:
    body = body_of(owed, domain=sender.processor.domain)
    headers = {"Content-Type": "application/json", "User-Agent": "Lethe-OpenDSR/2"}
    answer = outbound.post(owed.url, body, headers | sender.processor.headers(body), reach=sender.reach)
    with sender.transaction() as session:
        became = service.settle(session, owed, answer, at=sender.clock())
    if became != "delivered":
        _log.warning(
            became,
            request=ids.encode("er", owed.request_id),
            attempt=owed.attempts,
            status=answer.status,
            code=answer.error,
        )
