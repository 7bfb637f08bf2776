"""The keys that live outside Postgres: one file each, readable by us alone.

    subject, content         keyed hashes of identifiers and of content
    sketch                   keyed sketches of what records say, to find near duplicates
    suppression              keyed hashes of what no training may bring back
    lottery, placement       who is held back; which shard a subject falls in
    api, idempotency, cursor keys of callers, fingerprints of calls, list cursors
    webhooks                 seals the secrets that endpoints' messages are signed with
    admin_token              what the service shows to the model server

Why a key per use: whoever learns one can link or forge one thing only, and destroying one ends
exactly one linkability. The certificate keys lie in the same directory and belong to `app.signing`.
"""

import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

KEY_BYTES = 32


class KeyMissing(Exception):  # noqa: N818  it is named for what it says
    """A key that must exist does not, or is not what a key looks like."""


@dataclass(frozen=True, kw_only=True)
class Keyring:
    """The secrets of one installation; its `repr` shows where they are and none of them."""

    directory: Path
    subject: bytes = field(repr=False)
    content: bytes = field(repr=False)
    sketch: bytes = field(repr=False)
    suppression: bytes = field(repr=False)
    lottery: bytes = field(repr=False)
    placement: bytes = field(repr=False)
    api: bytes = field(repr=False)
    idempotency: bytes = field(repr=False)
    cursor: bytes = field(repr=False)
    webhooks: bytes = field(repr=False)
    admin_token: str = field(repr=False)

    @classmethod
    def open(cls, directory: Path, *, create: bool = False) -> "Keyring":
        """Read the keys; make those that are missing if `create`, else refuse to start without them."""
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        read = _Directory(directory, create=create)
        return cls(
            directory=directory,
            subject=read.key("subject"),
            content=read.key("content"),
            sketch=read.key("sketch"),
            suppression=read.key("suppression"),
            lottery=read.key("lottery"),
            placement=read.key("placement"),
            api=read.key("api"),
            idempotency=read.key("idempotency"),
            cursor=read.key("cursor"),
            webhooks=read.key("webhooks"),
            admin_token=read.key("admin_token").hex(),
        )


@dataclass(frozen=True)
class _Directory:
    path: Path
    create: bool

    def key(self, name: str) -> bytes:
        """Return the key called `name`: 32 bytes, kept as hex so that a person can move it."""
        path = self.path / f"{name}.key"
        if self.create and not path.exists():
            _write_once(path, secrets.token_bytes(KEY_BYTES).hex() + "\n")
        try:
            value = bytes.fromhex(path.read_text("ascii").strip())
        except FileNotFoundError:
            raise KeyMissing(f"{path} does not exist") from None
        except ValueError:
            raise KeyMissing(f"{path} is not a key in hex") from None
        # A placeholder that somebody typed repeats itself; 32 random bytes do not.
        if len(value) != KEY_BYTES or len(set(value)) < KEY_BYTES // 4:
            raise KeyMissing(f"{path} is not a key of {KEY_BYTES} random bytes")
        return value


def _write_once(path: Path, text: str) -> None:
    """Create the file whole (0600), unless another process has just done so: its key wins."""
    handle, name = tempfile.mkstemp(dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()
