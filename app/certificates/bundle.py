"""The evidence bundle: one zip of what a stranger needs, the same bytes each time.

    certificate.dsse.json        the statement and its two signatures
    certificate.sigstore.json    the same with the P-256 signature alone, for Sigstore's tools
    manifest.json                the version's manifest, byte for byte: the first subject
    certificate.tlog-proof       where it stands in the public log, and the log's signed root
    publication.dsse.json        the statement that its version, or a later one of the line, went live
    publication.tlog-proof       where that stands in the log
    continuity.json              that the published version honours the certificate, and dropped nothing
    status.dsse.json             which certificates do not stand, on the day the bundle was made
    model.sig                    the version's files, signed for `model_signing`
    timestamp.tsr                when an authority saw the Ed25519 signature, where one is asked
    HOWTO-VERIFY.md              how, with which commands, and what to get from elsewhere
    opening.json                 in the requester's copy only: nonces and proofs

Members are stored, not compressed: deflate differs between versions of zlib, and a checker need not
unpack a stranger's bomb. Knows no database: bytes in, bytes out.
"""

import hashlib
import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from app.certificates import check, status
from app.signing import canonical, envelope

DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest a zip can hold; the true one would make every copy another file."""
FILE_MODE = 0o100644
UNIX = 3


def name(certificate_id: UUID) -> str:
    """Return the file name of a certificate's bundle."""
    return f"lethe-{certificate_id}.zip"


def write(members: Mapping[str, bytes]) -> bytes:
    """Return the zip of these members: sorted, dated alike, stored; the same members give the same bytes."""
    unknown = set(members) - check.REQUIRED - check.OPTIONAL
    missing = check.REQUIRED - set(members)
    if unknown or missing:
        raise ValueError(f"a bundle has other members: {', '.join(sorted(unknown | missing))}")
    if any(len(content) > check.MEMBER_BYTES_MAX for content in members.values()):
        raise ValueError("a member is larger than a checker accepts")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for member in sorted(members):
            entry = zipfile.ZipInfo(member, DATE)
            entry.create_system, entry.external_attr = UNIX, FILE_MODE << 16
            archive.writestr(entry, members[member])
    return buffer.getvalue()


def assemble(
    *,
    envelope_bytes: bytes,
    manifest: bytes,
    p256_keyids: Collection[str],
    certificate_id: UUID,
    issuer: str,
    members: Mapping[str, bytes] = MappingProxyType({}),
    stamp: bytes | None = None,
    opening: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a certificate's bundle; with `opening` it is the requester's copy.

    `members` are what is not made here: proofs, publication, status. `stamp` is over the P-256 signature.

    `p256_keyids` are the issuer's P-256 keys, old ones included: the one that signed goes into the
    Sigstore bundle.
    """
    signed = envelope.decode(envelope_bytes)
    by = [keyid for keyid in envelope.signatures_of(signed) if keyid in p256_keyids]
    if len(by) != 1:
        raise ValueError("exactly one of the issuer's P-256 keys must have signed")
    stamps = [] if stamp is None else [stamp]
    whole = {
        **members,
        check.CERTIFICATE: envelope_bytes,
        check.SIGSTORE: canonical.encode(envelope.sigstore_bundle(signed, by[0], stamps=stamps)),
        check.MANIFEST: manifest,
        check.HOWTO: how_to_verify(certificate_id=certificate_id, issuer=issuer).encode(),
    }
    if opening is not None:
        whole[check.OPENING] = canonical.encode(opening)
    return write(whole)


def checker() -> bytes:
    """Return the checker itself, one file, to be published beside the trust file."""
    return Path(check.__file__).read_bytes()


def how_to_verify(*, certificate_id: UUID, issuer: str) -> str:
    """Return the text that goes with a bundle; it is covered by no signature and says so."""
    return HOW_TO_VERIFY.format(
        bundle=name(certificate_id),
        issuer=issuer,
        checker=hashlib.sha256(checker()).hexdigest(),
        predicate_type=check.PREDICATE_TYPE,
        status=status.url(issuer),
    )


HOW_TO_VERIFY = """\
# How to verify this certificate

No signature covers this text. Believe nothing here that you did not get from somewhere else as well:
whoever forges a certificate also forges the instructions.

## What you need, and not from this zip

1. `trust.json`: the public keys of {issuer}. Get it from the issuer's site or from a person you know
   there, and compare the key ids over a second channel.
2. `check.py`, one file, Python 3.11 and `pip install cryptography`. The SHA-256 of the edition that
   belongs to this bundle is

       {checker}

   and it says so only if you got that number, or the file, from elsewhere too.

## Check

    python check.py {bundle} --trust trust.json
    python check.py {bundle} --trust trust.json --model DIR    # DIR: the model's files
    python check.py {bundle} --trust trust.json --status FILE  # FILE: today's {status}

Exit code 0: valid. 1: invalid. 2: unreadable. 3: consistent, but nobody was authenticated (no
`--trust`). 4: the status is stale or missing. 5: revoked. Read the sentence and the limits it prints:
a certificate says what was done and what was tested, never that no trace can remain.

If this copy holds `opening.json`, it is yours alone: it leads from the certificate to your records.
Each `canonicalSha256` in it is the SHA-256 of one of your records in canonical form: text as UTF-8,
NFC, LF line ends, no byte order mark; a structured record as JSON by RFC 8785; anything else as it is.

## Check the signatures with other tools

Split the envelope into what was signed and its signatures (Python, standard library alone):

    import base64, json
    e = json.load(open("certificate.dsse.json"))
    t, p = e["payloadType"].encode(), base64.b64decode(e["payload"])
    open("pae.bin", "wb").write(b"DSSEv1 %d %b %d %b" % (len(t), t, len(p), p))
    for s in e["signatures"]:
        open(s["keyid"] + ".sig", "wb").write(base64.b64decode(s["sig"]))

A key id is the SHA-256 of the public key's SPKI DER. With the two PEM files of `trust.json`:

    openssl pkeyutl -verify -pubin -inkey ed25519.pem -rawin -in pae.bin -sigfile ED25519_KEYID.sig
    openssl dgst -sha256 -verify p256.pem -signature P256_KEYID.sig pae.bin

securesystemslib: `Envelope.from_dict(e).verify([key_a, key_b], threshold=2)`, where each key's keyid is
the one above. Sigstore's format, P-256 only, the signature and the first subject:

    cosign verify-blob-attestation --key p256.pem --bundle certificate.sigstore.json \\
      --type {predicate_type} \\
      --insecure-ignore-tlog manifest.json

The model's files, with `pip install model-signing` (DIR: as for `--model`):

    model_signing verify key DIR --signature model.sig --public_key p256.pem
"""
