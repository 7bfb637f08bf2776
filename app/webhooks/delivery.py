"""Send what is queued: claim, call, record. Two short transactions, and none open during the call.

A claim ends by itself: if this process is killed, another one sends the message again under the same
id. Knows no worker; whoever has time calls `deliver`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from app import telemetry
from app.clock import Clock
from app.http import ids, outbound
from app.http.outbound import Answer, Reach
from app.storage.database import Transaction
from app.storage.sealing import SealBroken
from app.webhooks import service, signature
from app.webhooks.repository import Claimed, Webhooks
from app.webhooks.signature import Keys

CLAIM = timedelta(seconds=60)
"""Longer than a call can take, with the recording of it."""
BATCH = 32
THREADS = 8
HEADERS = {"Content-Type": "application/json", "User-Agent": "Lethe-Webhooks/1"}

_log = telemetry.logger("webhooks")


@dataclass(frozen=True, kw_only=True)
class Sender:
    """What sending needs."""

    transaction: Transaction
    seal: bytes
    reach: Reach
    clock: Clock


def run(sender: Sender) -> int:
    """Queue what has happened and send what is due; return how many attempts were made."""
    while True:
        with sender.transaction() as session:
            if not service.tell(session, at=sender.clock()):
                break
    return deliver(sender)


def deliver(sender: Sender) -> int:
    """Send what is due, several at a time; return how many attempts were made."""
    claimed = _claim(sender)
    if not claimed:
        return 0
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="webhook") as threads:
        # Whatever one attempt raises is raised here, after the others have ended.
        for ended in [threads.submit(_attempt, sender, each, keys) for each, keys in claimed]:
            ended.result()
    return len(claimed)


def _claim(sender: Sender) -> Sequence[tuple[Claimed, list[Keys]]]:
    with sender.transaction() as session:
        at = sender.clock()
        claimed = Webhooks(session).claim(at=at, until=at + CLAIM, limit=BATCH)
        found = []
        for each in claimed:
            try:
                keys = service.keys_of(session, each.endpoint_id, seal=sender.seal, at=at)
            except SealBroken:
                # Its keys cannot be read: it is attempted, fails by a code of its own, and is seen.
                keys = []
            found.append((each, keys))
    return found


def _attempt(sender: Sender, claimed: Claimed, keys: Sequence[Keys]) -> None:
    answer = Answer(error="no-key")
    if keys:
        signed = signature.headers(
            keys,
            id=ids.encode("msg", claimed.message_id),
            timestamp=int(sender.clock().timestamp()),
            body=claimed.body,
        )
        answer = outbound.post(claimed.url, claimed.body, HEADERS | signed, reach=sender.reach)
    with sender.transaction() as session:
        became = service.settle(session, claimed, answer, at=sender.clock())
    if became != "delivered":
        _log.warning(
            became,
            target=ids.encode("whe", claimed.endpoint_id),
            attempt=claimed.attempts,
            status=answer.status,
            code=answer.error,
        )
