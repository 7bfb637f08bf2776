"""A whole certificate, made the way the issuer makes one, from fixed keys and a model of two tensors."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from app.certificates import bundle, check, commitments, publication, statement, status, weights
from app.certificates.commitments import RecordContent, RecordsCommitment, RequestCommitment
from app.certificates.publication import Kept, PublicationFacts, Reaudit
from app.certificates.statement import Evidence, StatementFacts
from app.certificates.status import Revoked
from app.signing import canonical, envelope, keys
from app.signing.keys import FileSigner, PublicKey
from app.transparency import tree
from app.transparency.notes import WITNESS_KIND, VerifierKey
from app.transparency.proofs import Proof
from tests.app.transparency.logs import Dishonest, policy_text, verifier

ISSUER = "https://issuer.example"
CERTIFICATE_ID = UUID("8d1c6c0e-7a54-4e7e-9a55-0f3b0f6f2c11")
REQUEST_ID = "er_01jd6z8q4mfyv9c2k5t7n3b0ha"
RECORD = b'{"text":"Ada Lovelace lives at 12 St James\'s Square."}'
ISSUED = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
NONCE = bytes(range(32))
DUMMIES = [hashlib.sha256(b"dummy" + bytes([i])).digest() for i in range(15)]
TENSOR_ROOT = "b1a39ae6a53d441efdc00d65518f36d8477dbd4b62cf92a5d4bb36101ccc0359"
"""Of `a.w` (F32, four zeros) and `b.w` (BF16, 3x2 ones)."""


def drawing(*values: bytes) -> Callable[[int], bytes]:
    """Return a source of these "random" bytes."""
    source: Iterator[bytes] = iter(values)
    return lambda _: next(source)


def sha256(data: bytes) -> str:
    """Return the hex digest."""
    return hashlib.sha256(data).hexdigest()


def signers(seed: int = 1) -> list[FileSigner]:
    """Return an issuer's two signers; another seed is another issuer."""
    private: list[ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey] = [
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32),
        ec.derive_private_key(seed + 1000, ec.SECP256R1()),
    ]
    return [FileSigner(public=PublicKey.of(key.public_key()), private=key) for key in private]


def trust(seed: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the trust file of that issuer, who keeps a log."""
    publics = [signer.public for signer in signers(seed)]
    return {**keys.trust(publics, issuer=ISSUER, log_policy=POLICY), **changes}


SEEN = ISSUED + timedelta(seconds=7)
"""When the second witness looked; the first did at once."""
COSIGNERS = [
    (verifier(f"witness.example/{name}", seed, WITNESS_KIND), seed, int(at.timestamp()))
    for name, seed, at in (("W1", 21, ISSUED), ("W2", 22, SEEN))
]
WITNESSES = [f"witness W{number} {key}" for number, (key, _, _) in enumerate(COSIGNERS, 1)]
POLICY = policy_text(*WITNESSES, "group G all W1 W2", quorum="G")


def logged(pae_sha256: str, subject: str) -> Dishonest:
    """Return a log of five entries of which the certificate is the third."""
    entry = canonical.encode({"kind": "erasure-certificate/v1", "paeSha256": pae_sha256, "subject": subject})
    return Dishonest(entries=[b"first", b"second", entry, b"fourth", b"fifth"])


def proof_of(log: Dishonest, *, index: int = 2) -> bytes:
    """Return the proof file of an entry, cosigned by both witnesses."""
    path = tree.inclusion_proof(log.leaves, index)
    return Proof(index=index, hashes=tuple(path), checkpoint=log.note(*COSIGNERS)).encode()


def safetensors(**tensors: tuple[str, list[int], bytes]) -> bytes:
    """Return a safetensors file of these tensors (dtype, shape, bytes); `_` in a name stands for a dot."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name.replace("_", ".")] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ZEROS = ("F32", [4], bytes(16))
ONES = ("BF16", [3, 2], b"\x80\x3f" * 6)
WHOLE = {"config.json": b"{}", "model.safetensors": safetensors(a_w=ZEROS, b_w=ONES)}
SHARDED = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": safetensors(b_w=ONES),
    "model-00002-of-00002.safetensors": safetensors(a_w=ZEROS),
}


def manifest(files: dict[str, bytes]) -> bytes:
    """Return an OCI image manifest with one layer per file."""
    layers = [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "digest": f"sha256:{sha256(content)}",
            "size": len(content),
            "annotations": {"org.cncf.model.filepath": path},
        }
        for path, content in files.items()
    ]
    return canonical.encode({"schemaVersion": 2, "layers": layers})


def lay_out(directory: Path, files: dict[str, bytes]) -> Path:
    """Write a model directory."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def records() -> RecordsCommitment:
    """Return the commitment to one record, with fixed nonce and dummies."""
    return commitments.build([RecordContent.of(RECORD)], rng=drawing(NONCE, *DUMMIES))


def request() -> RequestCommitment:
    """Return the commitment to the request, with a fixed nonce."""
    return commitments.commit_request(REQUEST_ID, rng=drawing(NONCE))


def facts(**changes: Any) -> StatementFacts:
    """Return what an ordinary certificate states."""
    ordinary = StatementFacts(
        certificate_id=CERTIFICATE_ID,
        issued_at=ISSUED,
        issuer=ISSUER,
        request=request(),
        received_on=date(2026, 11, 2),
        records=records(),
        manifest=manifest(WHOLE),
        line="support-7b",
        previous=sha256(b"previous"),
        tensor_root=TENSOR_ROOT,
        erasure_epoch=42,
        cumulative=[CERTIFICATE_ID],
        forms={"float32/none": sha256(b"form")},
        engine="gradient",
        method_class="approximate",
        attempts=1,
        code=sha256(b"code"),
        config=sha256(b"config"),
        environment=sha256(b"environment"),
        verdict="V",
        policy=sha256(b"policy"),
        suite="lethe-verify/1",
        bounds=[
            {"name": "residual_ratio_upper", "value": "0.13", "limit": "0.2", "confidence": "0.95",
             "form": "float32/none", "m": 999},
        ],
        level="verified",
        limitations=[*statement.ALWAYS, "L-COHORT"],
        evidence=[Evidence(name="verification-report", sha256=sha256(b"report"))],
        previous_is_quarantined=True,
        destroy_within_days=14,
    )  # fmt: skip
    return replace(ordinary, **changes)


@dataclass(frozen=True)
class Made:
    """A certificate and all that goes with it."""

    payload: bytes
    envelope: bytes
    manifest: bytes
    bundle: bytes
    proof: bytes
    opening: dict[str, Any] | None


def make(
    *,
    seed: int = 1,
    with_opening: bool = True,
    more: Mapping[str, bytes] | None = None,
    stamp: bytes | None = None,
    **changes: Any,
) -> Made:
    """Return a signed certificate in its bundle; `changes` are to the facts."""
    stated = facts(**changes)
    said = statement.build(stated)
    return sign(said, stated.manifest, seed=seed, with_opening=with_opening, more=more, stamp=stamp)


def sign(
    said: dict[str, Any],
    the_manifest: bytes,
    *,
    seed: int = 1,
    with_opening: bool = True,
    more: Mapping[str, bytes] | None = None,
    stamp: bytes | None = None,
) -> Made:
    """Return whatever is said, signed and bundled: also what an honest issuer would never say."""
    payload = canonical.encode(said)
    signed = envelope.encode(envelope.sign(payload, signers(seed)))
    identity = envelope.pae_sha256(payload)
    proof = proof_of(logged(identity, sha256(the_manifest)))
    opening = commitments.opening(statement.urn(CERTIFICATE_ID), identity, request(), records())
    data = bundle.assemble(
        envelope_bytes=signed,
        manifest=the_manifest,
        p256_keyids=[signers(seed)[1].keyid],
        certificate_id=CERTIFICATE_ID,
        issuer=ISSUER,
        members={check.PROOF: proof, **dict(more or {})},
        stamp=stamp,
        opening=opening if with_opening else None,
    )
    return Made(payload, signed, the_manifest, data, proof, opening if with_opening else None)


# With all that an issuer states besides

LATER_ID = UUID("2b0a9c55-0d6f-4e0b-8b7e-1d1f3c5a7e90")
"""A certificate of the version after."""
PUBLISHED = ISSUED + timedelta(minutes=2)
STATED = datetime(2026, 11, 30, 6, tzinfo=UTC)
"""When the newest status was produced: fresh at `LATER`."""
STATUS_URL = status.url(ISSUER)


def publication_facts(**changes: Any) -> PublicationFacts:
    """Return what was stated when the certificate's own version went live."""
    ordinary = PublicationFacts(
        line="support-7b",
        manifest=sha256(manifest(WHOLE)),
        erasure_epoch=42,
        honoured=[CERTIFICATE_ID],
        published_at=PUBLISHED,
        forms=["float32/none"],
        attestations=[{"payload": "e30="}],
        previous=[Kept(manifest=sha256(b"previous"), role="served", destroy_by=date(2026, 12, 5))],
        reaudit=Reaudit(checked=59, failed=0),
    )
    return replace(ordinary, **changes)


NEXT: dict[str, Any] = {
    "manifest": sha256(manifest(SHARDED)),
    "erasure_epoch": 43,
    "honoured": [CERTIFICATE_ID, LATER_ID],
}
"""Of the version after it, which honours this certificate and another."""


def signed_statement(payload: bytes, *, seed: int = 1) -> bytes:
    """Return any payload in its envelope."""
    return envelope.encode(envelope.sign(payload, signers(seed)))


def status_of(*revoked: Revoked, at: datetime = STATED, issuer: str = ISSUER, seed: int = 1) -> bytes:
    """Return a signed list."""
    return signed_statement(status.build(issuer, status.listed(revoked), produced_at=at), seed=seed)


def standing(
    said: PublicationFacts | None = None, *, honoured: Sequence[UUID] | None = None, seed: int = 1
) -> dict[str, bytes]:
    """Return the members that show what honours the certificate, and that it stands.

    `honoured` is the list that the proofs are made from, if it is another than the one stated.
    """
    said = said or publication_facts()
    payload = publication.build(said)
    entry = canonical.encode(
        {"kind": "publication/v1", "paeSha256": envelope.pae_sha256(payload), "subject": said.manifest}
    )
    log = Dishonest(entries=[b"first", b"second", b"third", entry, b"fifth"])
    path = tree.inclusion_proof(log.leaves, 3)
    shown = publication.continuity(CERTIFICATE_ID, size=1, honoured=honoured or said.honoured)
    return {
        check.PUBLICATION: signed_statement(payload, seed=seed),
        check.PUBLICATION_PROOF: Proof(
            index=3, hashes=tuple(path), checkpoint=log.note(*late_cosigners())
        ).encode(),
        check.CONTINUITY: canonical.encode(shown),
        check.STATUS: status_of(),
        check.MODEL_SIGNATURE: weights.sign("support-7b", manifest(WHOLE), signers()[1]),
    }


def late_cosigners() -> list[tuple[VerifierKey, int, int]]:
    """Return the witnesses as they looked after the publication."""
    return [(key, seed, int(PUBLISHED.timestamp()) + 9) for key, seed, _ in COSIGNERS]


def make_whole(**changes: Any) -> Made:
    """Return a certificate as it is handed out when its version is served: with every member but a stamp."""
    more = changes.pop("more", None)
    members = standing() if more is None else more
    return make(status_list=STATUS_URL, oms_root=weights.root(manifest(WHOLE)), more=members, **changes)
