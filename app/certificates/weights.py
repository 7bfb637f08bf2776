"""`model.sig`: the version's files signed in the format that `model_signing` reads (OpenSSF OMS v1.0).

A Sigstore bundle v0.3 over one statement: each file with its SHA-256 by path, and as subject a digest over
those digests. The key is named by the SHA-256 of its PEM text, which that tool demands. P-256 alone:
it crashes on Ed25519. Knows no file: the manifest names them.
"""

import hashlib
from typing import Any

from app.registry import manifest as manifests
from app.signing import canonical, envelope
from app.signing.keys import PublishedSigner

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
METHOD = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}


def root(manifest: bytes) -> str:
    """Return the digest over the raw digests of a version's files, in the order of their paths."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in _files(manifest))).hexdigest()


def sign(line: str, manifest: bytes, signer: PublishedSigner) -> bytes:
    """Return `model.sig` by the issuer's P-256 key."""
    assert signer.algorithm == envelope.P256, "the tool knows the curves of NIST"
    payload = canonical.encode(_statement(line, manifest))
    hint = hashlib.sha256(signer.public.pem.encode()).hexdigest()
    signature = envelope.signature(signer, envelope.pae(envelope.PAYLOAD_TYPE, payload))
    signed = envelope.unsigned(payload) | {"signatures": [signature]}
    return canonical.encode(envelope.sigstore_bundle(signed, signer.keyid, hint=hint))


def _statement(line: str, manifest: bytes) -> dict[str, Any]:
    resources = [{"name": path, "digest": digest, "algorithm": "sha256"} for path, digest in _files(manifest)]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": PREDICATE_TYPE,
        "subject": [{"name": line, "digest": {"sha256": root(manifest)}}],
        "predicate": {"serialization": METHOD, "resources": resources},
    }


def _files(manifest: bytes) -> list[tuple[str, str]]:
    return sorted((layer.path, layer.digest) for layer in manifests.layers(manifest))
