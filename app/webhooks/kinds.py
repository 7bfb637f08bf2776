"""What is told, and what of it: kinds of events that an endpoint may want, and a message's body. Pure.

Told are the families below, so a new kind of event is told to whoever wanted its family; who manages
keys and endpoints, what is looked up and what is drawn by lot is nobody else's business. Of an event's
body only ids of things and short codes are taken, by name: whatever is added to an event later is not
told before it is added here too. Ids of principals are left out, as they stand for people.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from app.audit import events

TEST: Final = "webhook.test"
FAMILIES: Final = ("audit", "certificate", "dataset", "hold", "job", "model", "request", "target", "version")
KINDS: Final = frozenset(
    event.KIND
    for event in vars(events).values()
    if isinstance(event, type)
    and issubclass(event, events.Event)
    and event is not events.Event
    and event.KIND.partition(".")[0] in FAMILIES
)
IDS: Final = ("audit", "certificate", "dataset", "hold", "job", "model", "request", "version")
CODES: Final = (
    "days",
    "due_on",
    "engine",
    "ground",
    "how",
    "level",
    "number",
    "origin",
    "outcome",
    "reason",
    "stage",
    "state",
    "status",
)
_ID: Final = re.compile(r"[a-z]{2,5}_[0-7][0-9a-hjkmnp-tv-z]{25}|urn:uuid:[0-9a-f-]{36}")
_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def unknown(wanted: Iterable[str]) -> list[int]:
    """Return the places of what is neither a kind nor a family (`request.*`) that is told."""
    families = {f"{family}.*" for family in FAMILIES}
    return [index for index, each in enumerate(wanted) if each not in KINDS and each not in families]


def wants(wanted: Collection[str], kind: str) -> bool:
    """Return whether an endpoint that wants these is told of this kind."""
    return kind in KINDS and (kind in wanted or f"{kind.partition('.')[0]}.*" in wanted)


def payload(kind: str, *, seq: int | None, body: Mapping[str, object], at: datetime) -> bytes:
    """Return the bytes of a message: `type`, `timestamp` and, in `data`, ids, codes and the sequence."""
    data: dict[str, object] = {} if seq is None else {"sequence": seq}
    data |= {name: body[name] for name in IDS if _is(_ID, body.get(name))}
    data |= {name: body[name] for name in CODES if _is(_CODE, body.get(name)) or type(body.get(name)) is int}
    said = {"type": kind, "timestamp": instant(at), "data": data}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=True).encode()


def when(body: Mapping[str, object]) -> datetime:
    """Return the instant of an event, which is told in microseconds."""
    at = body["at"]
    assert isinstance(at, int), "an event's instant is in microseconds"
    return EPOCH + timedelta(microseconds=at)


def instant(at: datetime) -> str:
    """Return an instant as RFC 3339 has it, in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _is(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
