"""DSSE: the published vector, both signatures demanded, other people's tools agree."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]  # exported without saying so

from app.signing import envelope
from app.signing.envelope import EnvelopeRefused
from app.signing.keys import PublicKey, PublishedSigner, generate, open_signers

PAYLOAD = b'{"a":1}'

# secure-systems-lab/dsse, protocol.md
PUBLISHED_X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
PUBLISHED_Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
PUBLISHED_SIGNATURE = (
    "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
)
PUBLISHED_PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.fixture
def signers(tmp_path: Path) -> list[PublishedSigner]:
    generate(tmp_path)
    return open_signers(tmp_path)


def test_the_published_encoding_and_signature() -> None:
    message = envelope.pae("http://example.com/HelloWorld", b"hello world")
    assert message == PUBLISHED_PAE
    raw = base64.b64decode(PUBLISHED_SIGNATURE)  # published as r || s; ours is the same pair in DER
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    key = ec.EllipticCurvePublicNumbers(PUBLISHED_X, PUBLISHED_Y, ec.SECP256R1()).public_key()
    key.verify(der, message, ec.ECDSA(hashes.SHA256()))
    assert PublicKey.of(key).verify(der, message)
    assert not PublicKey.of(key).verify(raw, message)


def test_lengths_are_counted_in_bytes() -> None:
    assert envelope.pae("é", "ü".encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xbc"


def test_what_was_signed_is_read_back(signers: list[PublishedSigner]) -> None:
    signed = envelope.decode(envelope.encode(envelope.sign(PAYLOAD, signers)))
    assert envelope.verify(signed, [each.public for each in signers]) == PAYLOAD
    assert list(envelope.signatures_of(signed)) == [each.keyid for each in signers]
    assert b" " not in envelope.encode(signed)


def test_both_algorithms_must_sign(signers: list[PublishedSigner]) -> None:
    with pytest.raises(ValueError, match="one key of each"):
        envelope.sign(PAYLOAD, signers[:1])
    signed = envelope.sign(PAYLOAD, signers)
    for only in range(2):
        with pytest.raises(EnvelopeRefused, match="no trusted signature"):
            envelope.verify({**signed, "signatures": [signed["signatures"][only]]}, publics(signers))
        with pytest.raises(EnvelopeRefused, match="no trusted signature"):
            envelope.verify(signed, publics(signers)[only : only + 1])


def test_another_payload_type_or_key_is_refused(signers: list[PublishedSigner], tmp_path: Path) -> None:
    signed = envelope.sign(PAYLOAD, signers)
    others = generate(tmp_path / "others")
    with pytest.raises(EnvelopeRefused, match="not of type"):
        envelope.verify({**signed, "payloadType": "text/plain"}, publics(signers))
    with pytest.raises(EnvelopeRefused, match="no trusted signature"):
        envelope.verify(signed, others)


def test_a_changed_payload_or_signature_is_refused(signers: list[PublishedSigner]) -> None:
    signed = envelope.sign(PAYLOAD, signers)
    with pytest.raises(EnvelopeRefused, match="does not verify"):
        envelope.verify({**signed, "payload": base64.b64encode(b"{}").decode()}, publics(signers))
    twice = {**signed, "signatures": [*signed["signatures"], signed["signatures"][0]]}
    with pytest.raises(EnvelopeRefused, match="once"):
        envelope.verify(twice, publics(signers))


@pytest.mark.parametrize("text", ["e30", "e31=", "e30=\n", "e3-=", 7])
def test_base64_has_one_spelling(signers: list[PublishedSigner], text: object) -> None:
    with pytest.raises(EnvelopeRefused, match="base64"):
        envelope.verify({**envelope.sign(b"{}", signers), "payload": text}, publics(signers))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"payload":"","payloadType":""}', b"\xff"])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeRefused):
        envelope.decode(data)


def test_the_sigstore_bundle_holds_the_p256_signature_alone(signers: list[PublishedSigner]) -> None:
    signed = envelope.sign(PAYLOAD, signers)
    bundle = envelope.sigstore_bundle(signed, signers[1].keyid)
    assert bundle["dsseEnvelope"]["signatures"] == [signed["signatures"][1]]
    assert bundle["dsseEnvelope"]["payload"] == signed["payload"]
    assert len(signed["signatures"]) == 2, "the envelope itself is left as it was"
    with pytest.raises(EnvelopeRefused, match="did not sign"):
        envelope.sigstore_bundle(signed, "0" * 64)


def test_securesystemslib_verifies_the_envelope(signers: list[PublishedSigner]) -> None:
    keys: list[Key] = [SSlibKey.from_crypto(each.public.load(), keyid=each.keyid) for each in signers]
    theirs = TheirEnvelope.from_dict(envelope.decode(envelope.encode(envelope.sign(PAYLOAD, signers))))
    assert set(theirs.verify(keys, threshold=2)) == {each.keyid for each in signers}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
def test_openssl_verifies_both_signatures(signers: list[PublishedSigner], tmp_path: Path) -> None:
    signed = envelope.sign(PAYLOAD, signers)
    (tmp_path / "pae.bin").write_bytes(envelope.pae(envelope.PAYLOAD_TYPE, PAYLOAD))
    for signer, name in zip(signers, ("a", "b"), strict=True):
        (tmp_path / f"{name}.pub").write_text(signer.public.pem)
        (tmp_path / f"{name}.sig").write_bytes(envelope.signatures_of(signed)[signer.keyid])
    for command in (
        "openssl pkeyutl -verify -pubin -inkey a.pub -rawin -in pae.bin -sigfile a.sig",
        "openssl dgst -sha256 -verify b.pub -signature b.sig pae.bin",
    ):
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_keyid_is_that_of_the_spki_der(signers: list[PublishedSigner]) -> None:
    der = (
        signers[0]
        .public.load()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert digest.finalize().hex() == signers[0].keyid


def publics(signers: list[PublishedSigner]) -> list[PublicKey]:
    return [each.public for each in signers]
