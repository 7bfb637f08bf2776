"""What a controller checks: our frozen vectors, openssl as the oracle, and everything that must not pass.

The vectors in `tests/vectors/opendsr` are our own, as the specification has none: `root.pem` issued
the intermediate in `chain.pem`, that the certificate of processor.example, whose key (made for this)
signed `callback.json`; the signature is deterministic.
"""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from app.intake import signing
from app.intake.signing import NotAProcessor, NotSigned, Processor
from tests.app.intake.authority import Authority, issue, key_pem, pem, rsa_key

VECTORS = Path(__file__).parents[2] / "vectors" / "opendsr"
DOMAIN = "processor.example"
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
BODY = (VECTORS / "callback.json").read_bytes()
SIGNATURE = (VECTORS / "callback.signature").read_text().strip()
CHAIN = x509.load_pem_x509_certificates((VECTORS / "chain.pem").read_bytes())
ROOTS = x509.load_pem_x509_certificates((VECTORS / "root.pem").read_bytes())


def private() -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key((VECTORS / "leaf.key").read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def headers(signature: str = SIGNATURE, domain: str = DOMAIN) -> Mapping[str, str]:
    return {"x-opendsr-processor-domain": domain, "x-opendsr-signature": signature}


def check(said: Mapping[str, str], body: bytes = BODY, **other: object) -> None:
    given: dict[str, object] = {"chain": CHAIN, "roots": ROOTS, "domain": DOMAIN, "at": AT}
    signing.check(said, body, **(given | other))  # type: ignore[arg-type]  # each case says what it is


def test_the_signature_is_equal_to_the_byte() -> None:
    assert signing.sign(private(), BODY) == SIGNATURE
    assert "\n" not in SIGNATURE
    check(headers())


def test_openssl_agrees(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here")
    public = (
        CHAIN[0]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "key").write_bytes(public)
    (tmp_path / "signature").write_bytes(base64.b64decode(SIGNATURE))
    arguments: list[str | Path] = [
        openssl,
        "dgst",
        "-sha256",
        "-verify",
        tmp_path / "key",
        "-signature",
        tmp_path / "signature",
    ]
    said = subprocess.run([*arguments, VECTORS / "callback.json"], check=True, capture_output=True)
    assert said.stdout == b"Verified OK\n"
    arguments = [openssl, "verify", "-CAfile", VECTORS / "root.pem", "-untrusted", VECTORS / "chain.pem"]
    said = subprocess.run([*arguments, VECTORS / "chain.pem"], check=True, capture_output=True)
    assert said.stdout.endswith(b"OK\n")


def encoded(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def test_no_byte_of_the_body_can_be_another() -> None:
    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        with pytest.raises(NotSigned):
            check(headers(), changed)


def test_the_same_json_in_other_bytes_is_another_body() -> None:
    with pytest.raises(NotSigned):
        check(headers(), json.dumps(json.loads(BODY)).encode())


def test_the_digest_signed_as_a_message_does_not_count() -> None:
    digest = hashlib.sha256(BODY).digest()
    with pytest.raises(NotSigned):
        check(headers(signing.sign(private(), digest)))


def test_other_schemes_do_not_count() -> None:
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    with pytest.raises(NotSigned):
        check(headers(encoded(private().sign(BODY, pss, hashes.SHA256()))))
    with pytest.raises(NotSigned):
        check(headers(encoded(private().sign(BODY, padding.PKCS1v15(), hashes.SHA512()))))
    curve = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(NotSigned):
        check(headers(encoded(curve.sign(BODY, ec.ECDSA(hashes.SHA256())))))
    authority = Authority.new()
    with pytest.raises(NotSigned, match="RSA"):
        check(headers(), chain=[authority.leaf(DOMAIN, curve)], roots=[authority.root])


@pytest.mark.parametrize(
    "signature", ["", "!", "AAAA", SIGNATURE[:40] + "\n" + SIGNATURE[40:], SIGNATURE[:-4]]
)
def test_what_is_no_signature(signature: str) -> None:
    with pytest.raises(NotSigned):
        check(headers(signature))


def test_the_domain_is_the_one_that_was_asked() -> None:
    with pytest.raises(NotSigned, match="domain"):
        check(headers(domain="other.example"))
    with pytest.raises(NotSigned, match=r"not for other\.example"):
        check(headers(domain="other.example"), domain="other.example")


def test_an_authority_that_nobody_trusts() -> None:
    with pytest.raises(NotSigned, match="no authority"):
        check(headers(), roots=[Authority.new().root])
    with pytest.raises(NotSigned, match="no authority"):
        check(headers(), roots=[])
    # One with the right name and another key.
    impostor = issue("Lethe test root", ec.generate_private_key(ec.SECP256R1()), ca=True)
    with pytest.raises(NotSigned, match="not by the next"):
        check(headers(), roots=[impostor])


def test_what_is_not_valid_now() -> None:
    with pytest.raises(NotSigned, match="not valid now"):
        check(headers(), at=datetime(2060, 1, 1, tzinfo=UTC))


# What may be set up ----------------------------------------------------------------------------------


def processor(chain: bytes, *, key: bytes | None = None, domain: str = DOMAIN) -> Processor:
    return Processor.of(domain=domain, key_pem=key or key_pem(rsa_key()), chain_pem=chain, at=AT)


def test_a_chain_up_to_an_authority_is_taken() -> None:
    authority = Authority.new()
    below = authority.intermediate()
    leaf = authority.leaf(DOMAIN, rsa_key(), by=below)
    found = processor(pem(leaf, below[0]))
    said = {name.lower(): value for name, value in found.headers(BODY).items()}
    signing.check(said, BODY, chain=[leaf, below[0]], roots=[authority.root], domain=DOMAIN, at=AT)
    assert "PRIVATE" not in repr(found)
    # The root may be in the file too.
    processor(pem(leaf, below[0], authority.root))


def test_what_a_controller_would_refuse_is_refused_at_the_start() -> None:
    authority, other = Authority.new(), Authority.new("Other")
    below = authority.intermediate()
    leaf = authority.leaf(DOMAIN, rsa_key(), by=below)
    cases = {
        "self-signed": pem(issue(DOMAIN, rsa_key(), domain=DOMAIN)),
        "not for": pem(authority.leaf("other.example", rsa_key())),
        "another key": pem(authority.leaf(DOMAIN, rsa_key(7))),
        "not by the next one": pem(leaf, other.root),
        "not an authority's": pem(leaf, authority.leaf("Intermediate", rsa_key(7))),
        "not valid now": pem(authority.leaf(DOMAIN, rsa_key(), until=AT - timedelta(days=1))),
        "at most": pem(leaf, *[below[0]] * 6),
        "not PEM": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }
    for why, chain in cases.items():
        with pytest.raises(NotAProcessor, match=why):
            processor(chain)


def test_only_an_rsa_key_of_a_fair_size_will_do() -> None:
    authority, curve = Authority.new(), ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(NotAProcessor, match="RSA"):
        processor(pem(authority.leaf(DOMAIN, curve)), key=key_pem(curve))
    small = rsa_key(9, bits=1024)
    with pytest.raises(NotAProcessor, match="2048"):
        processor(pem(authority.leaf(DOMAIN, small)), key=key_pem(small))
    with pytest.raises(NotAProcessor, match="PEM"):
        processor(pem(authority.leaf(DOMAIN, rsa_key())), key=b"nothing")
