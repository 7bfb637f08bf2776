"""Dead Simple Signing Envelope: sign exact bytes of a stated type, twice.

    PAE = "DSSEv1" SP len(type) SP type SP len(payload) SP payload        (lengths in bytes, ASCII)

What is signed is the PAE, so a verifier checks the bytes it received and canonicalises nothing. The
identity of a statement is SHA-256(PAE), never the envelope's hash: envelope JSON can gain signatures.
Knows no file, no clock and no key format: keys are whatever signs or verifies.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from app.signing import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
SIGSTORE_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ED25519 = "ed25519"
P256 = "ecdsa-p256"
ALGORITHMS = (ED25519, P256)
"""Both must have signed; `ecdsa-p256` is ECDSA over SHA-256, the signature in DER."""

Envelope = dict[str, Any]


class Signer(Protocol):
    """A private key somewhere: in a file, or behind a key service."""

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of the public key's SPKI DER."""

    @property
    def algorithm(self) -> str:
        """One of `ALGORITHMS`."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature over `message`."""


class Verifier(Protocol):
    """A public key one trusts."""

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of its SPKI DER."""

    @property
    def algorithm(self) -> str:
        """One of `ALGORITHMS`."""

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key made `signature` over `message`."""


class EnvelopeRefused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """An envelope is malformed, or not signed by both keys."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def pae_sha256(payload: bytes, *, payload_type: str = PAYLOAD_TYPE) -> str:
    """Return a statement's identity: hex SHA-256 of its PAE."""
    return hashlib.sha256(pae(payload_type, payload)).hexdigest()


def sign(payload: bytes, signers: Sequence[Signer], *, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """Return the envelope of `payload`, signed by one key of each algorithm."""
    if sorted(signer.algorithm for signer in signers) != sorted(ALGORITHMS):
        raise ValueError(f"a statement is signed by one key of each: {', '.join(ALGORITHMS)}")
    message = pae(payload_type, payload)
    return {
        **unsigned(payload, payload_type=payload_type),
        "signatures": [signature(signer, message) for signer in signers],
    }


def unsigned(payload: bytes, *, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """Return the envelope of `payload` before anybody has signed."""
    return {"payload": base64.b64encode(payload).decode(), "payloadType": payload_type, "signatures": []}


def signature(signer: Signer, message: bytes) -> dict[str, str]:
    """Return one signature over a PAE, as an envelope holds it."""
    return {"keyid": signer.keyid, "sig": base64.b64encode(signer.sign(message)).decode()}


def encode(envelope: Envelope) -> bytes:
    """Return the bytes in which an envelope is stored and sent: compact, no white space."""
    return canonical.encode(envelope)


def decode(envelope: bytes) -> Envelope:
    """Return the envelope in these bytes; `EnvelopeRefused` if it is none."""
    try:
        value = json.loads(envelope)
    except ValueError as reason:
        raise EnvelopeRefused("an envelope is JSON") from reason
    if not isinstance(value, dict) or value.keys() != {"payload", "payloadType", "signatures"}:
        raise EnvelopeRefused("an envelope has a payload, its type and signatures")
    return value


def payload_of(envelope: Envelope) -> bytes:
    """Return the payload, unverified."""
    return _base64(envelope.get("payload"))


def signatures_of(envelope: Envelope) -> dict[str, bytes]:
    """Return the signatures by keyid, unverified; a keyid may occur once."""
    entries = envelope.get("signatures")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise EnvelopeRefused("signatures are a list of objects")
    found = {str(entry.get("keyid")): _base64(entry.get("sig")) for entry in entries}
    if len(found) != len(entries):
        raise EnvelopeRefused("a key signs once")
    return found


def verify(envelope: Envelope, keys: Iterable[Verifier], *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return the payload if a trusted key of each algorithm signed it; unknown keyids are ignored."""
    if envelope.get("payloadType") != payload_type:
        raise EnvelopeRefused(f"the payload is not of type {payload_type}")
    payload, signatures = payload_of(envelope), signatures_of(envelope)
    message = pae(payload_type, payload)
    signed: set[str] = set()
    for key in keys:
        if key.keyid in signatures:
            if not key.verify(signatures[key.keyid], message):
                raise EnvelopeRefused(f"the signature of key {key.keyid} does not verify")
            signed.add(key.algorithm)
    missing = [algorithm for algorithm in ALGORITHMS if algorithm not in signed]
    if missing:
        raise EnvelopeRefused(f"no trusted signature: {', '.join(missing)}")
    return payload


def sigstore_bundle(
    envelope: Envelope, keyid: str, *, hint: str | None = None, stamps: Sequence[bytes] = ()
) -> Mapping[str, Any]:
    """Return the same payload as a Sigstore bundle v0.3 with the signature of `keyid` alone.

    A bundle holds one signature, and Sigstore's tools know P-256: pass that key's id. `stamps` are
    RFC 3161 tokens over that signature.
    """
    chosen = [entry for entry in envelope["signatures"] if entry["keyid"] == keyid]
    if len(chosen) != 1:
        raise EnvelopeRefused(f"key {keyid} did not sign this envelope")
    tokens = [{"signedTimestamp": base64.b64encode(each).decode()} for each in stamps]
    stamped = {"timestampVerificationData": {"rfc3161Timestamps": tokens}} if stamps else {}
    return {
        "dsseEnvelope": {**envelope, "signatures": chosen},
        "mediaType": SIGSTORE_BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint or keyid}, "tlogEntries": [], **stamped},
    }


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise EnvelopeRefused("base64 is a string")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as reason:
        raise EnvelopeRefused("not base64") from reason
    if base64.b64encode(raw).decode() != text:  # unused bits must be zero, or two texts mean one value
        raise EnvelopeRefused("not canonical base64")
    return raw
