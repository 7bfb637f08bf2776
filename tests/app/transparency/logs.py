"""Logs for tests: one in Postgres with fixed keys, and witnesses that answer without a network."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.signing.keys import FileSigner, PublicKey
from app.storage.database import Transaction
from app.transparency import service, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.keys import LogSigner
from app.transparency.mark import Mark
from app.transparency.notes import LOG_KIND, WITNESS_KIND, Note, VerifierKey
from app.transparency.policies import Policy
from app.transparency.service import Sequencer
from app.transparency.tiles import ENTRIES, Tile, bundle
from app.transparency.witnesses import Witness

ORIGIN = "issuer.example/log/2026"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KIND: Final = "erasure-certificate/v1"


def private(seed: int) -> FileSigner:
    """Return a private key from a seed."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return FileSigner(public=PublicKey.of(key.public_key()), private=key)


def verifier(name: str, seed: int, kind: int = LOG_KIND) -> VerifierKey:
    """Return the public half under a name."""
    key = private(seed).private
    assert isinstance(key, Ed25519PrivateKey)
    return VerifierKey(name=name, kind=kind, public=key.public_key().public_bytes_raw())


LOG_KEY = verifier(ORIGIN, 9)
SIGNER = LogSigner(key=LOG_KEY, private=private(9))


def policy(*more: str, quorum: str = "none") -> Policy:
    """Return the policy of our log, with witness and group lines."""
    return Policy.parse(policy_text(*more, quorum=quorum))


def policy_text(*more: str, quorum: str = "none") -> str:
    return "\n".join([f"log {LOG_KEY}", *more, f"quorum {quorum}", ""])


def sequencer(directory: Path, chosen: Policy | None = None, **changes: object) -> Sequencer:
    """Return a sequencer whose mark lies in `directory`."""
    made = Sequencer(
        signer=SIGNER,
        policy=chosen or policy(),
        mark=Mark(directory / "log" / "high-water-mark"),
        clock=lambda: NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # named as the fields are


leaf_hash = cache(tree.leaf_hash)


def digest(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def append(transaction: Transaction, *names: object) -> list[bytes]:
    """Ask for entries to be logged; return their leaf hashes."""
    with transaction() as session:
        return [
            service.append(session, KIND, pae_sha256=digest(name), subject=digest("subject"))
            for name in names
        ]


def entry(name: object) -> bytes:
    return b'{"kind":"%b","paeSha256":"%b","subject":"%b"}' % (
        KIND.encode(), digest(name).encode(), digest("subject").encode(),
    )  # fmt: skip


@dataclass
class Witnesses:
    """Witnesses without a network: their URL is their name."""

    each: dict[str, Witness] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, seed: int, directory: Path, *, at: datetime = NOW) -> str:
        """Add one; return its policy line."""
        key = verifier(f"witness.example/{name}", seed, WITNESS_KIND)
        self.each[name] = Witness(
            key=key, signer=private(seed), policy=policy(), directory=directory / name, clock=lambda: at
        )
        return f"witness {name} {key} https://{name}"

    def ask(self, url: str, body: bytes) -> tuple[int, bytes]:
        name = url.removeprefix("https://").removesuffix("/add-checkpoint")
        self.asked.append(name)
        if name in self.away:
            return 0, b""
        answer = self.each[name].add_checkpoint(body)
        return answer.status, answer.body


@dataclass
class Dishonest:
    """A log of plain lists, which can be served in ways that no honest log would."""

    entries: list[bytes] = field(default_factory=list)
    seed: int = 9
    tamper: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def leaves(self) -> list[bytes]:
        return list(map(leaf_hash, self.entries))

    def note(self, *cosigners: tuple[VerifierKey, int, int]) -> bytes:
        """Return the signed checkpoint; cosigners are (key, seed, seconds)."""
        text = Checkpoint(origin=ORIGIN, size=len(self.entries), root=tree.root(self.leaves)).text
        lines = [verifier(ORIGIN, self.seed).signature(text, private(self.seed))]
        lines += [key.signature(text, private(seed), seconds=at) for key, seed, at in cosigners]
        return Note(text=text, signatures=tuple(lines)).encode()

    def fetch(self, path: str) -> bytes:
        """Return what stands at a path below the log's URL."""
        if path in self.tamper:
            return self.tamper[path]
        if path == "checkpoint":
            return self.note()
        place = Tile.parse(path)
        if place.level == ENTRIES:
            return bundle(self.entries[place.first : place.first + place.width])
        span, leaves = 256**place.level, self.leaves
        return b"".join(
            tree.root(leaves[i * span : (i + 1) * span])
            for i in range(place.first, place.first + place.width)
        )
