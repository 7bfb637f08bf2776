"""API keys over HTTP: create (shown once), list, revoke."""

from fastapi import Response

from app.auth import service
from app.auth.dependencies import KeysManage
from app.auth.schemas import Key, KeyCreate, KeyCreated
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import KeyId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.tables import ApiKey, Principal

router = new_router("/v1/api-keys", tag="API keys")

LIST = "api-keys"


@router.post("", status_code=201, responses=responses(Conflict, Forbidden, Invalid))
def create_key(
    body: KeyCreate,
    session: SessionDep,
    caller: KeysManage,
    keyring: KeyringDep,
    now: NowDep,
    response: Response,
) -> KeyCreated:
    """Make a key for a principal; it is in this answer and nowhere else, ever."""
    key, principal, token = service.hand_out_key(
        session,
        keyring.api,
        caller,
        principal_id=body.principal,
        name=body.name,
        kind=body.kind,
        scopes=body.scopes,
        vouches=body.vouches,
        days=body.days,
        at=now,
    )
    response.headers["Cache-Control"] = "no-store"
    return KeyCreated(**_shown(key, principal).model_dump(mode="python"), key=token)


@router.get("", responses=responses(Forbidden))
def list_keys(
    session: SessionDep,
    _caller: KeysManage,
    keyring: KeyringDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Key]:
    """List the keys, newest first; none of them shows what it opens."""
    place = pagination.decode(keyring.cursor, cursor, of=LIST)
    after = (place.created_at, place.id) if place else None
    found = service.list_keys(session, after=after, limit=limit + 1)
    return Page(
        items=[_shown(key, principal) for key, principal in found[:limit]],
        next=pagination.encode(
            keyring.cursor, Place(found[limit - 1][0].created_at, found[limit - 1][0].id), of=LIST
        )
        if len(found) > limit
        else None,
    )


@router.delete("/{key_id}", status_code=204, responses=responses(Forbidden, NotFound))
def revoke_key(key_id: KeyId, session: SessionDep, _caller: KeysManage, now: NowDep) -> None:
    """End a key at once."""
    service.revoke_key(session, key_id, at=now)


def _shown(key: ApiKey, principal: Principal) -> Key:
    return Key(
        id=key.id,
        principal=principal.id,
        name=principal.name,
        kind=principal.kind,
        scopes=key.scopes,
        vouches=key.vouches,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )
