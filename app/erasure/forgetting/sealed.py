"""What a caller wrote down of a person, sealed under the request's own key.

Each field is bound to its request and its name, the data key to its request; so nothing that is moved
to another place opens. Which keys there are comes with the session (`session.info["epochs"]`), as it is
the same for every verb of a process.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.erasure.forgetting.repository import Secrets
from app.errors import Gone, NotFound
from app.storage import sealing
from app.storage.database import Session, after_commit
from app.storage.epochs import KEY_BYTES, Epoch, EpochDestroyed, EpochKeys
from app.tables import RequestSecrets, new_id

INFO = "epochs"
"""Where a session has its process's keys."""


class Field(StrEnum):
    """What may be kept of a person, for as long as the request needs it."""

    IDENTIFIERS = "identifiers"
    """What the person is known by, as intake was given it; of foreign systems, hashes."""
    NOTE = "note"
    """What a caller wrote to the request."""
    EVIDENCE = "evidence"
    """How the identity was proven, in words."""
    REFUSAL = "refusal"
    """Why it was refused, in words."""


def begin_all(session: Session, given: Mapping[UUID, Mapping[Field, bytes]]) -> None:
    """Seal the first fields of new requests, in one insert."""
    Secrets(session).add_all([_new(session, id_, fields) for id_, fields in given.items() if fields])


def seal(session: Session, request_id: UUID, field: Field, value: bytes) -> None:
    """Seal a field of a request, instead of what it was before; `Gone` once its key is destroyed."""
    rows = Secrets(session)
    row = rows.locked(request_id)
    if row is None:
        rows.add(_new(session, request_id, {field: value}))
        return
    setattr(row, field, sealing.seal(_key(session, row), value, about=_about(request_id, field)))
    session.flush()


def unseal(session: Session, request_id: UUID, field: Field) -> bytes:
    """Return a field as it was written.

    Raises:
        NotFound: the request never had it.
        Gone: its key is destroyed, by the purge of the request or with the week it was wrapped in.
    """
    row = Secrets(session).get(request_id)
    held: bytes | None = None if row is None else getattr(row, field)
    if row is None or (held is None and row.destroyed_at is None):
        raise NotFound(f"the request has no {field}")
    key = _key(session, row)
    assert held is not None, "what is not destroyed is there"
    return sealing.unseal(key, bytes(held), about=_about(request_id, field))


def destroy(session: Session, request_id: UUID, *, at: datetime) -> int:
    """Destroy the data key of a request, and what was sealed by it; return how many fields that were."""
    row = Secrets(session).locked(request_id)
    if row is None or row.destroyed_at is not None:
        return 0
    held = [field for field in Field if getattr(row, field) is not None]
    for field in Field:
        setattr(row, field, None)
    row.epoch_id, row.data_key, row.destroyed_at = None, None, at
    session.flush()
    return len(held)


def fields(session: Session, request_id: UUID) -> list[Field]:
    """Return which fields a request has; none where nothing was given. `Gone` once they are destroyed."""
    row = Secrets(session).get(request_id)
    if row is None:
        return []
    if row.destroyed_at is not None:
        raise _gone()
    return [field for field in Field if getattr(row, field) is not None]


def identifiers(session: Session, request_id: UUID) -> list[dict[str, str]]:
    """Return what the person is known by: type, value, and `hashed` of what is a hash."""
    found: list[dict[str, str]] = json.loads(unseal(session, request_id, Field.IDENTIFIERS))
    return found


def written(given: Sequence[tuple[str, str, bool]]) -> bytes:
    """Return identifiers (type, value, whether it is a hash) as they are sealed."""
    listed = [{"type": kind, "sha256" if hashed else "value": value} for kind, value, hashed in given]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")).encode()


def epoch_keys(session: Session) -> EpochKeys:
    """Return the keys of this process."""
    found: object = session.info.get(INFO)
    assert isinstance(found, EpochKeys), "a composition root gives its sessions the weekly keys"
    return found


def wrapping(session: Session) -> tuple[Epoch, bytes]:
    """Return this week's key; the first of a week makes it.

    The file is there before the row, and believed only once the row is committed: of two who come first
    at once one waits for the other's row, and takes its key.
    """
    keys = epoch_keys(session)
    week = keys.week()
    if keys.current is not None and keys.current[0].week == week:
        return keys.current
    rows = Secrets(session)
    if (known := rows.epoch_of(week)) is not None:
        found = (Epoch(week, known), keys.read(Epoch(week, known)))
    else:
        made = Epoch(week, new_id())
        key = keys.make(made)
        if rows.add_epoch(made.id, week):
            found = (made, key)
        else:
            keys.destroy(made)
            found_id = rows.epoch_of(week)
            assert found_id is not None, "who lost the race sees the winner's row"
            found = (Epoch(week, found_id), keys.read(Epoch(week, found_id)))
    after_commit(session, lambda: setattr(keys, "current", found))
    return found


def wrapped(kek: bytes, request_id: UUID, key: bytes) -> bytes:
    """Return a request's data key, wrapped."""
    return sealing.seal(kek, key, about=f"request/{request_id}/key")


def unwrapped(kek: bytes, request_id: UUID, held: bytes) -> bytes:
    """Return a request's data key."""
    return sealing.unseal(kek, held, about=f"request/{request_id}/key")


def _new(session: Session, request_id: UUID, given: Mapping[Field, bytes]) -> RequestSecrets:
    epoch, kek = wrapping(session)
    key = secrets.token_bytes(KEY_BYTES)
    sealed = {
        field.value: sealing.seal(key, value, about=_about(request_id, field))
        for field, value in given.items()
    }
    return RequestSecrets(
        request_id=request_id, epoch_id=epoch.id, data_key=wrapped(kek, request_id, key), **sealed
    )


def _key(session: Session, row: RequestSecrets) -> bytes:
    if row.epoch_id is None or row.data_key is None:
        raise _gone()
    week = Secrets(session).week_of(row.epoch_id)
    try:
        kek = epoch_keys(session).read(Epoch(week, row.epoch_id))
    except EpochDestroyed:
        raise _gone() from None
    return unwrapped(kek, row.request_id, bytes(row.data_key))


def _gone() -> Gone:
    return Gone("what was known of the person is destroyed", code="purged")


def _about(request_id: UUID, field: Field) -> str:
    return f"request/{request_id}/{field}"
