"""`serving-attestation/v1`: what a replica says it holds, signed by its own key (rule: pure).

The replica makes its key at start and hands the public half out on its admin socket, so a signature
shows that one running process answers, and the caller's fresh nonce that it answers now. It stops
mistakes, not an operator who lies: only confidential computing says more.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import Conflict
from app.signing import canonical, envelope
from app.signing.envelope import Envelope, EnvelopeRefused, Signer, Verifier

TYPE = "https://lethe.example/attestation/serving-attestation/v1"
STATEMENT = "https://in-toto.io/Statement/v1"
SCHEME = "tensor-root"
CANARY_SET = "lethe/canary/1"


class AttestationRefused(Conflict):
    """What the replica says it holds is not what it was told to hold, or it cannot show it."""

    code = "attestation-refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a replica holds of one model line."""

    model: str
    version: str
    manifest: str
    form: str
    publish_epoch: int
    erasure_epoch: int
    tensor_root: str
    """Of the files; every tensor on the device was read back and equals its file's, in the form."""
    device_root: str
    """Of what was read back from the device; equal to `tensor_root` unless the form converts."""
    engine: Mapping[str, str]
    loaded_on: str
    previous: str | None
    """Manifest of the version before, if there was one in this process."""
    previous_freed: bool
    canaries_matched: int
    canaries: int


def statement(holding: Holding, *, replica: str, nonce: str) -> bytes:
    """Return the canonical bytes of the statement."""
    previous = {"digest": {"sha256": holding.previous}, "freed": holding.previous_freed}
    return canonical.encode(
        {
            "_type": STATEMENT,
            "predicateType": TYPE,
            "subject": [{"name": "manifest.json", "digest": {"sha256": holding.manifest}}],
            "predicate": {
                "replica": replica,
                "nonce": nonce,
                "model": holding.model,
                "version": holding.version,
                "publishEpoch": holding.publish_epoch,
                "erasureEpoch": holding.erasure_epoch,
                "form": holding.form,
                "engine": dict(holding.engine),
                "weights": {"scheme": SCHEME, "value": holding.tensor_root, "onDevice": holding.device_root},
                "loadedOn": holding.loaded_on,
                "previous": None if holding.previous is None else previous,
                "canary": {"set": CANARY_SET, "matched": holding.canaries_matched, "of": holding.canaries},
            },
        }
    )


def sign(payload: bytes, signer: Signer) -> Envelope:
    """Return the DSSE envelope with the replica's one signature."""
    signature = signer.sign(envelope.pae(envelope.PAYLOAD_TYPE, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": envelope.PAYLOAD_TYPE,
        "signatures": [{"keyid": signer.keyid, "sig": base64.b64encode(signature).decode()}],
    }


def verify(signed: Envelope, key: Verifier) -> dict[str, Any]:
    """Return the statement if `key` signed it."""
    if signed.get("payloadType") != envelope.PAYLOAD_TYPE:
        raise AttestationRefused("the attestation is not an in-toto statement")
    try:
        payload, signatures = envelope.payload_of(signed), envelope.signatures_of(signed)
    except EnvelopeRefused as reason:
        raise AttestationRefused(f"the attestation is malformed: {reason}") from reason
    signature = signatures.get(key.keyid)
    if signature is None or not key.verify(signature, envelope.pae(envelope.PAYLOAD_TYPE, payload)):
        raise AttestationRefused("the attestation is not signed by the replica's key")
    found = json.loads(payload)
    if not isinstance(found, dict) or found.get("predicateType") != TYPE:
        raise AttestationRefused("the attestation is a statement of another type")
    return found


def expect(
    found: Mapping[str, Any],
    *,
    nonce: str,
    model: str,
    manifest: str,
    tensor_root: str,
    form: str,
    publish_epoch: int,
    erasure_epoch: int,
) -> None:
    """Refuse a verified statement that does not say exactly this."""
    predicate = found["predicate"]
    weights, canary, previous = predicate["weights"], predicate["canary"], predicate["previous"]
    said = {
        "nonce": (predicate["nonce"], nonce),
        "model": (predicate["model"], model),
        "manifest": (found["subject"][0]["digest"]["sha256"], manifest),
        "weights": ((weights["scheme"], weights["value"]), (SCHEME, tensor_root)),
        "form": (predicate["form"], form),
        "publish epoch": (predicate["publishEpoch"], publish_epoch),
        "erasure epoch": (predicate["erasureEpoch"], erasure_epoch),
        "canaries": (canary["matched"], canary["of"]),
        "previous version": (previous is None or previous["freed"], True),
    }
    wrong = [what for what, (is_, should) in said.items() if is_ != should]
    if wrong:
        raise AttestationRefused(f"the replica attests another {wrong[0]} than it was told to hold")
