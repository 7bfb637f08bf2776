"""The people of a fresh installation: principals, their keys, and the file that tells them (0600)."""

import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.audit.archive import guarded
from app.auth import service as auth
from app.auth.scopes import of_roles
from app.clock import system_clock
from app.config import Settings
from app.storage.database import Session, close, connect
from app.storage.keyring import Keyring

ACCOUNTS = {
    "officer": "privacy_officer",
    "reviewer": "privacy_officer",
    "engineer": "ml_engineer",
    "admin": "admin",
}
"""Made at the first start, with their roles: two may approve, so that four eyes work on a laptop."""


def ensure(settings: Settings) -> dict[str, str]:
    """Make the accounts that are missing, and leave their keys in a file (0600)."""
    keyring = Keyring.open(settings.keys)
    assert settings.database_url is not None, "the addresses are complete"
    known = credentials(settings.home)
    engine = connect(settings.database_url, statement_seconds=5)
    try:
        with guarded(engine, settings.storage)() as session:
            keys = known.get("keys", {})
            found = {name: _account(session, keyring, name, keys.get(name)) for name in ACCOUNTS}
            # Inside of the transaction: a key that nobody could be told of is never committed.
            _write_private(credentials_file(settings.home), {"url": settings.public_url, "keys": found})
    finally:
        close(engine)
    return found


def make_account(settings: Settings, name: str, *, roles: Collection[str], kind: str) -> str:
    """Make a principal, or find it, and return a new key of its own with the scopes of the roles."""
    assert settings.database_url is not None, "whoever calls has checked"
    keyring, engine = Keyring.open(settings.keys), connect(settings.database_url, statement_seconds=5)
    try:
        with guarded(engine, settings.storage)() as session:
            return _new_key(session, keyring, name, roles=roles, kind=kind)
    finally:
        close(engine)


def credentials(home: Path) -> dict[str, Any]:
    """Return what a start on `home` has left for its people: `url`, and `keys` by the account's name."""
    try:
        return dict(json.loads(credentials_file(home).read_text()))
    except (FileNotFoundError, PermissionError):
        return {}


def credentials_file(home: Path) -> Path:
    """Return where that is."""
    return home.resolve() / "credentials.json"


def _account(session: Session, keyring: Keyring, name: str, key: str | None) -> str:
    """Return the account's key if it still opens the door, else a new one."""
    with suppress(auth.Unauthenticated):
        auth.authenticate(session, keyring.api, key, at=system_clock())
        assert key is not None, "nobody is let in without a key"
        return key
    return _new_key(session, keyring, name, roles=[ACCOUNTS[name]], kind="person")


def _new_key(session: Session, keyring: Keyring, name: str, *, roles: Collection[str], kind: str) -> str:
    now = system_clock()
    principal = auth.find_principal(session, name) or auth.create_principal(
        session, name=name, kind=kind, at=now
    )
    _, key = auth.create_key(session, keyring.api, principal_id=principal.id, scopes=of_roles(roles), at=now)
    return key


def _write_private(path: Path, body: object) -> None:
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
