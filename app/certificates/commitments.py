"""Committing to a person's records without naming them: salted hashes, padded, under one root.

    c_i     = SHA-256("lethe/record/v1"  || 0x00 || nonce_i || SHA-256(canonical bytes of record i))
    request = SHA-256("lethe/request/v1" || 0x00 || nonce   || request id)
    root    = MTH over all c_i and random dummies, sorted as bytes, a power of two >= 16 of them

A nonce is 32 fresh random bytes per record and request: whoever guesses a record cannot test the guess,
two certificates about it have nothing in common, and when the nonces are destroyed nothing leads back.
Only a size class of the request shows. Never a bare hash (a dictionary finds it), never an HMAC with a
key of any length (K and K || 0x00 collide). Knows no record's content, only its hash.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from app.signing import canonical
from app.transparency import tree

NONCE_BYTES = 32
PADDED_SIZE_MIN = 16
OPENING_VERSION = "lethe/opening/1"

Random = Callable[[int], bytes]
"""Return so many random bytes: `secrets.token_bytes`, or a test's fixed ones."""


@dataclass(frozen=True, slots=True)
class RecordContent:
    """What is committed to of one record: the hash of its canonical bytes (`lethe/canon/1`), in hex."""

    canonical_sha256: str

    @classmethod
    def of(cls, canonical_bytes: bytes) -> Self:
        """Return the record with these canonical bytes."""
        return cls(hashlib.sha256(canonical_bytes).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOpening:
    """What shows that one record is committed to; with the nonce gone, nothing does."""

    canonical_sha256: str
    nonce: str
    index: int
    proof: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as `opening.json` has it."""
        return {
            "canonicalSha256": self.canonical_sha256,
            "nonce": self.nonce,
            "index": self.index,
            "proof": list(self.proof),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsCommitment:
    """Root and padded size go into the statement, the openings to the requester alone."""

    root: str
    padded_size: int
    openings: tuple[RecordOpening, ...]
    """In the order in which the records were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCommitment:
    """A request's id behind a nonce."""

    commitment: str
    nonce: str
    request_id: str


def commit(nonce: bytes, canonical_sha256: bytes) -> bytes:
    """Return the commitment to a record whose canonical bytes have this hash."""
    assert len(nonce) == NONCE_BYTES, "a shorter nonce can be guessed"
    assert len(canonical_sha256) == hashlib.sha256().digest_size, "a hash, not the record"
    return hashlib.sha256(b"lethe/record/v1\x00" + nonce + canonical_sha256).digest()


def request_commitment(nonce: bytes, request_id: str) -> bytes:
    """Return the commitment to a request's id."""
    assert len(nonce) == NONCE_BYTES, "a shorter nonce can be guessed"
    return hashlib.sha256(b"lethe/request/v1\x00" + nonce + request_id.encode()).digest()


def commit_request(request_id: str, *, rng: Random = secrets.token_bytes) -> RequestCommitment:
    """Return a fresh commitment to a request's id, with its nonce."""
    nonce = rng(NONCE_BYTES)
    return RequestCommitment(
        commitment=request_commitment(nonce, request_id).hex(), nonce=nonce.hex(), request_id=request_id
    )


def padded_size(count: int) -> int:
    """Return the next power of two, at least 16: all that shows of how many records there are."""
    return max(PADDED_SIZE_MIN, 1 << (count - 1).bit_length())


def build(records: Sequence[RecordContent], *, rng: Random = secrets.token_bytes) -> RecordsCommitment:
    """Return fresh commitments to these records under one root: nonces are drawn first, then dummies."""
    if not records:
        raise ValueError("a certificate is about at least one record")
    nonces = [rng(NONCE_BYTES) for _ in records]
    committed = [
        commit(nonce, bytes.fromhex(record.canonical_sha256))
        for nonce, record in zip(nonces, records, strict=True)
    ]
    size = padded_size(len(records))
    leaves = sorted([*committed, *(rng(NONCE_BYTES) for _ in range(size - len(records)))])
    index_of = {leaf: index for index, leaf in enumerate(leaves)}
    assert len(index_of) == size, "two random 32-byte strings are never equal"
    hashes = [tree.leaf_hash(leaf) for leaf in leaves]
    proofs = tree.inclusion_proofs(hashes)
    openings = tuple(
        RecordOpening(
            canonical_sha256=record.canonical_sha256,
            nonce=nonce.hex(),
            index=index_of[leaf],
            proof=tuple(each.hex() for each in proofs[index_of[leaf]]),
        )
        for record, nonce, leaf in zip(records, nonces, committed, strict=True)
    )
    return RecordsCommitment(root=tree.root(hashes).hex(), padded_size=size, openings=openings)


def opening(
    certificate_id: str, pae_sha256: str, request: RequestCommitment, records: RecordsCommitment
) -> dict[str, Any]:
    """Return the content of `opening.json`, for the requester and nobody else."""
    return {
        "version": OPENING_VERSION,
        "certificateId": certificate_id,
        "paeSha256": pae_sha256,
        "request": {"id": request.request_id, "nonce": request.nonce},
        "records": [each.to_json() for each in records.openings],
    }


def salted(document: Mapping[str, Any], *, rng: Random = secrets.token_bytes) -> bytes:
    """Return the bytes of an evidence file: its random `salt` lets the plain SHA-256 hide the content."""
    if "salt" in document:
        raise ValueError("the salt is drawn here")
    return canonical.encode({**document, "salt": rng(NONCE_BYTES).hex()})
