"""Keys: RFC 8032's own, made once, private ones private, public ones published."""

import base64
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from app.signing import keys
from app.signing.keys import FileSigner, KeyUnusable, PublicKey

NOON = datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC)

# RFC 8032, section 7.1: secret key, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_published_ed25519_signatures(secret: str, public: str, message: str, signature: str) -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    signer = FileSigner(public=PublicKey.of(private.public_key()), private=private)
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert raw.hex() == public
    assert signer.public.verify(bytes.fromhex(signature), bytes.fromhex(message))
    assert not signer.public.verify(bytes.fromhex(signature), bytes.fromhex(message) + b"\x00")


def test_an_ed25519_signature_has_one_form() -> None:
    """S + L verifies under a sloppy verifier; RFC 8032 demands S < L."""
    _, public, message, signature = RFC_8032[1]
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(bytes.fromhex(signature)[32:], "little") + order
    forged = bytes.fromhex(signature)[:32] + s.to_bytes(32, "little")
    key = PublicKey.of(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    assert not key.verify(forged, bytes.fromhex(message))


def test_keys_are_made_once_and_lie_private(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    made = keys.generate(directory, at=NOON)
    assert [key.algorithm for key in made] == ["ed25519", "ecdsa-p256"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in keys.PRIVATE_FILES.values():
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert keys.generate(directory) == made == keys.public_keys(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_key_counts_from_the_second_it_was_made_in(tmp_path: Path) -> None:
    for key in keys.generate(tmp_path, at=NOON):
        assert key.not_before == NOON.replace(microsecond=0)
        assert key.not_after is None


def test_the_signers_sign_for_the_published_keys(tmp_path: Path) -> None:
    for signer, public in zip(keys.open_signers(make(tmp_path)), keys.public_keys(tmp_path), strict=True):
        assert signer.keyid == public.keyid
        assert public.verify(signer.sign(b"message"), b"message")


def test_a_private_key_is_not_printed(tmp_path: Path) -> None:
    assert "private" not in repr(keys.open_signers(make(tmp_path))[0])


def test_a_new_key_is_listed_beside_the_old_one(tmp_path: Path) -> None:
    old = keys.generate(tmp_path, at=NOON)
    (tmp_path / keys.PRIVATE_FILES["ed25519"]).unlink()
    assert keys.generate(tmp_path, at=NOON)[:2] == old
    assert [key.algorithm for key in keys.public_keys(tmp_path)] == ["ed25519", "ecdsa-p256", "ed25519"]


def test_a_key_that_lies_open_or_is_of_another_kind_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / keys.PRIVATE_FILES["ed25519"]
    path.chmod(0o644)
    with pytest.raises(KeyUnusable, match="open to everybody"):
        keys.open_signer(f"file:{path}")
    path.chmod(0o600)
    path.write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(KeyUnusable, match="one of"):
        keys.open_signer(f"file:{path}")


@pytest.mark.parametrize("uri", ["vault:transit/a", "file:/nowhere/key.pem", ""])
def test_a_signer_that_is_not_there_says_so(uri: str) -> None:
    with pytest.raises(KeyUnusable):
        keys.open_signer(uri)


def test_without_the_public_list_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="generate the keys first"):
        keys.public_keys(tmp_path)


def test_the_trust_file_names_keys_and_no_log(tmp_path: Path) -> None:
    made = keys.generate(tmp_path, at=NOON)
    trust = keys.trust(made, issuer="https://issuer.example")
    assert trust["log"] is None
    assert [entry["keyid"] for entry in trust["keys"]] == list(keys.public_pems(made))
    assert trust["keys"][0]["notBefore"] == "2026-11-21T12:00:00Z"
    assert [PublicKey.from_json(entry) for entry in json.loads(json.dumps(trust))["keys"]] == made
    with pytest.raises(KeyUnusable, match="not what its PEM holds"):
        PublicKey.from_json({**trust["keys"][0], "keyid": "0" * 64})


def test_the_key_set_is_readable_by_others(tmp_path: Path) -> None:
    made = keys.generate(tmp_path, at=NOON)
    first, second = keys.jwks(made)["keys"]
    assert (first["kid"], first["kty"], first["crv"]) == (made[0].keyid, "OKP", "Ed25519")
    assert (second["kid"], second["kty"], second["crv"]) == (made[1].keyid, "EC", "P-256")
    assert first["nbf"] == int(NOON.timestamp())
    numbers = made[1].load().public_numbers()  # type: ignore[union-attr]  # the second is P-256
    assert int.from_bytes(base64.urlsafe_b64decode(second["x"] + "=")) == numbers.x


def make(directory: Path) -> Path:
    keys.generate(directory, at=NOON)
    return directory
