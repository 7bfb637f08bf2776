"""The log's key and its policy, in the key directory.

    log_ed25519.pem            PKCS #8 PEM, 0600: signs checkpoints and nothing else
    log_ed25519_before.pem     the key before it, while both sign: from `rotate` to `retire`
    log_policy.txt             public (C2SP `tlog-policy`): the log's verifier keys, its witnesses, the quorum

One public key must not serve two kinds of signature, so the log has a key of its own. Who only reads
the log needs the policy alone. The origin is chosen once, when the key is made, and never changes.
"""

import os
import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.signing import keys, rotation
from app.storage.files import replace as replace_file
from app.transparency import checkpoint as checkpoints
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import LOG_KIND, Note, VerifierKey
from app.transparency.policies import Policy, PolicyRefused

PRIVATE_FILE = "log_ed25519.pem"
BEFORE_FILE, NEXT_FILE = "log_ed25519_before.pem", "log_ed25519_next.pem"
POLICY_FILE = "log_policy.txt"
POLICY = """\
# Whose checkpoints of this log count. Give it to whoever checks certificates or watches the log.
# Until two independent witnesses are named, this is an operator-signed log: whoever holds its key
# could show two people two different logs. To name one (its URL is asked for each checkpoint):
#
#   witness W1 <vkey> https://witness.example
#   quorum W1
log {vkey}
quorum none
"""


class NoLog(keys.KeyUnusable):
    """There is no log here: no key was made."""


@dataclass(frozen=True, kw_only=True)
class LogSigner:
    """The log's private key, under its name."""

    key: VerifierKey
    private: keys.FileSigner = field(repr=False)
    before: "LogSigner | None" = None
    """The key before this one, while both sign: who knows either can go on."""

    def sign(self, checkpoint: Checkpoint) -> Note:
        """Return the note of a checkpoint: the same bytes each time, until the keys change."""
        note = checkpoints.sign(checkpoint, self.key, self.private)
        if self.before is None:
            return note
        return replace(note, signatures=(*note.signatures, *self.before.sign(checkpoint).signatures))


def origin_of(issuer: str, at: datetime) -> str:
    """Return the name of a log that an issuer opens in a year: its URL without the scheme."""
    parts = urlsplit(issuer)
    host = f"{parts.netloc}{parts.path}".rstrip("/") or issuer
    return f"{host}/log/{at.year}"


def generate(directory: Path, *, issuer: str, at: datetime) -> Policy:
    """Make the log's key and policy where they are missing; what exists stays."""
    private = made(directory / PRIVATE_FILE)
    key = VerifierKey(name=origin_of(issuer, at), kind=LOG_KIND, public=public_of(private))
    write_once(directory / POLICY_FILE, POLICY.format(vkey=key).encode(), mode=0o644)
    return read_policy(directory)


def read_policy(directory: Path) -> Policy:
    """Return whose checkpoints count; reads no private file."""
    return Policy.parse(policy_text(directory))


def policy_text(directory: Path) -> str:
    """Return the policy as it stands in its file; `NoLog` if there is none."""
    try:
        return (directory / POLICY_FILE).read_text()
    except FileNotFoundError as reason:
        raise NoLog(f"no {POLICY_FILE} in the key directory: `lethe keys` makes one") from reason


def open_log(directory: Path) -> LogSigner:
    """Return the log's signer; the policy must name its key, and the one before while both sign."""
    policy = read_policy(directory)
    before = directory / BEFORE_FILE
    return replace(
        _named(policy, directory / PRIVATE_FILE),
        before=_named(policy, before) if before.exists() else None,
    )


def rotate(directory: Path) -> VerifierKey:
    """Put a new key in the place of the log's; from now on both sign each checkpoint. Return the new one.

    The log keeps its name: a name with two keys is one log. Killed anywhere, another call finishes it.

    Raises:
        KeyUnusable: the last rotation is not over; `retire` ends it.
    """
    current, following, before = (directory / name for name in (PRIVATE_FILE, NEXT_FILE, BEFORE_FILE))
    if current.exists() and before.exists():
        raise keys.KeyUnusable("two keys sign the log already; retire the one before first")
    policy = read_policy(directory)
    private, name = made(following), policy.logs[0].key.name
    key = VerifierKey(name=name, kind=LOG_KIND, public=public_of(private))
    if key not in {party.key for party in policy.logs}:
        lines = policy_text(directory).split("\n")
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == ["log"])
        # Before the old one: whoever reads one key of a log reads the first.
        replace_file(directory / POLICY_FILE, "\n".join([*lines[:at], f"log {key}", *lines[at:]]).encode())
    if current.exists():
        current.replace(before)
    following.replace(current)
    return key


def retire(directory: Path) -> bool:
    """Let the new key sign alone: destroy the private half of the one before. False if there is none.

    Its verifier key stays in the policy, for the proofs that it signed.
    """
    before = directory / BEFORE_FILE
    if not before.exists():
        return False
    before.unlink()
    return True


def introduce(directory: Path, *, issuer: str, at: datetime) -> None:
    """State the keys that nothing was stated about yet: the issuer's, and the log's."""
    others = [keys.open_file(directory / PRIVATE_FILE).public] if (directory / PRIVATE_FILE).exists() else []
    rotation.introduce(directory, issuer=issuer, at=at, others=others)


def _named(policy: Policy, file: Path) -> LogSigner:
    private = keys.open_file(file)
    for party in policy.logs:
        if party.key.public == public_of(private):
            return LogSigner(key=party.key, private=private)
    raise PolicyRefused(f"{POLICY_FILE} does not name the key in {file.name}")


def made(path: Path) -> keys.FileSigner:
    """Return the Ed25519 key in a file, made now if there is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_once(path, pem)
    return keys.open_file(path)


def public_of(signer: keys.FileSigner) -> bytes:
    """Return the 32 bytes of its public half."""
    return signer.private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )


def write_once(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file whole, unless it exists: whoever came first wins."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()
