"""Keys that take each other's place: what old ones signed still checks, new ones are vouched for."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import (  # type: ignore[attr-defined]  # exported without saying so
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    Signature,
)
from securesystemslib.signer import Signer as TheirSigner  # type: ignore[attr-defined]  # likewise

from app.signing import envelope, keys, rotation
from app.signing.envelope import ED25519, P256
from app.signing.keys import KeyUnusable, PublicKey

ISSUER = "https://issuer.example"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOON + timedelta(days=300)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    keys.generate(tmp_path, at=NOON)
    rotation.introduce(tmp_path, issuer=ISSUER, at=NOON)
    return tmp_path


def signing(directory: Path) -> dict[str, str]:
    return {each.algorithm: each.keyid for each in keys.open_signers(directory)}


def test_the_new_keys_sign_and_the_old_ones_stay_in_the_list(directory: Path) -> None:
    before = signing(directory)
    signed = envelope.sign(b"{}", keys.open_signers(directory))
    added = rotation.rotate(directory, issuer=ISSUER, at=LATER)
    assert signing(directory) == {each.algorithm: each.keyid for each in added}
    assert not set(signing(directory).values()) & set(before.values())
    listed = {key.keyid: key for key in keys.public_keys(directory)}
    assert len(listed) == 4
    for keyid in before.values():
        assert listed[keyid].not_after == LATER + rotation.GRACE
    for each in added:
        assert (listed[each.keyid].not_before, listed[each.keyid].not_after) == (LATER, None)
    assert envelope.verify(signed, listed.values()) == b"{}", "what the old ones signed is still theirs"
    assert not list(directory.glob("*.next"))
    for name in keys.PRIVATE_FILES.values():
        assert (directory / name).stat().st_mode & 0o077 == 0


def test_one_algorithm_alone(directory: Path) -> None:
    before = signing(directory)
    rotation.rotate(directory, issuer=ISSUER, at=LATER, algorithms=[P256])
    after = signing(directory)
    assert (before[ED25519] == after[ED25519], before[P256] == after[P256]) == (True, False)


def test_each_key_is_stated_and_signed_by_the_keys_before_it(directory: Path) -> None:
    first = keys.public_keys(directory)
    rotation.rotate(directory, issuer=ISSUER, at=LATER)
    rotation.rotate(directory, issuer=ISSUER, at=LATER + timedelta(days=300))
    stated = rotation.stated(directory)
    assert len(stated) == 6
    said: dict[str, Any] = json.loads(envelope.payload_of(stated[2]))
    assert said["predicateType"] == "https://lethe.example/attestation/key/v1"
    assert said["predicate"]["predecessor"] in {key.keyid for key in first}
    assert said["subject"] == [{"name": "key", "digest": {"sha256": said["predicate"]["keyid"]}}]
    reached = {key.keyid for key in rotation.followed(first, stated)}
    assert reached == {key.keyid for key in keys.public_keys(directory)}, "old to newest, step by step"


def test_nobody_vouches_for_himself(directory: Path, tmp_path: Path) -> None:
    trusted = keys.public_keys(directory)
    strange = tmp_path / "strange"
    keys.generate(strange, at=NOON)
    rotation.introduce(strange, issuer=ISSUER, at=NOON)
    rotation.rotate(strange, issuer=ISSUER, at=LATER)
    assert rotation.followed(trusted, rotation.stated(strange)) == trusted
    half = [key for key in keys.public_keys(strange) if key.algorithm == P256]
    assert set(rotation.followed([*trusted, *half], rotation.stated(strange))) == {*trusted, *half}


def test_a_key_is_stated_once(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in (directory / rotation.FOLDER).iterdir()}
    rotation.introduce(directory, issuer=ISSUER, at=LATER)
    assert {path.name: path.read_bytes() for path in (directory / rotation.FOLDER).iterdir()} == before


def test_a_distrusted_key_is_marked_for_every_checker(directory: Path) -> None:
    old = signing(directory)
    with pytest.raises(KeyUnusable, match="signs now"):
        rotation.distrust(directory, old[P256], issuer=ISSUER, after=NOON, at=NOON)
    first = keys.public_keys(directory)
    rotation.rotate(directory, issuer=ISSUER, at=LATER)
    rotation.distrust(directory, old[P256], issuer=ISSUER, after=NOON, at=LATER)
    listed = {key.keyid: key for key in keys.public_keys(directory)}
    assert listed[old[P256]].to_json()["notTrustedAfter"] == "2026-11-21T12:00:00Z"
    assert PublicKey.from_json(listed[old[P256]].to_json()) == listed[old[P256]]
    followed = {key.keyid: key for key in rotation.followed(first, rotation.stated(directory))}
    assert followed[old[P256]].not_trusted_after == NOON, "who follows hears of it"
    with pytest.raises(KeyUnusable, match="no key"):
        rotation.distrust(directory, "0" * 64, issuer=ISSUER, after=NOON, at=LATER)


def test_killed_before_the_change_the_old_keys_go_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signing(directory)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rotation, "_take_over", killed)
    with pytest.raises(KeyboardInterrupt):
        rotation.rotate(directory, issuer=ISSUER, at=LATER)
    monkeypatch.undo()
    assert signing(directory) == before
    rotation.rotate(directory, issuer=ISSUER, at=LATER + timedelta(days=1))
    assert set(signing(directory).values()) <= {key.keyid for key in keys.public_keys(directory)}


# Keys in a service


class Service(TheirSigner):
    """A key service in this process: what a cloud's signer is to the library."""

    held: ec.EllipticCurvePrivateKey = ec.derive_private_key(77, ec.SECP256R1())
    away = False

    def __init__(self, key: Any) -> None:
        self._key = key

    @property
    def public_key(self) -> Any:
        return self._key

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> "Service":
        if "pin" in priv_key_uri:
            assert secrets_handler("pin") == "1234"
        return cls(public_key)

    def sign(self, payload: bytes) -> Any:
        if Service.away:
            raise ConnectionError
        signed = Service.held.sign(payload, ec.ECDSA(hashes.SHA256()))
        return Signature(self._key.keyid, signed.hex())


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> PublicKey:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "somekms", Service)
    monkeypatch.setattr(Service, "away", False)
    return PublicKey.of(Service.held.public_key())


def test_a_key_in_a_service_signs_from_now_on_and_a_file_can_take_over_again(
    directory: Path, service: PublicKey
) -> None:
    rotation.rotate(
        directory, issuer=ISSUER, at=LATER, algorithms=[P256], services={P256: ("somekms:alias/a", service)}
    )
    assert signing(directory)[P256] == service.keyid
    assert not (directory / keys.PRIVATE_FILES[P256]).exists(), "the file's key is no more"
    signed = envelope.sign(b"{}", keys.open_signers(directory))
    assert envelope.verify(signed, keys.public_keys(directory)) == b"{}"
    listed = keys.public_keys(directory)
    assert keys.generate(directory, at=LATER) == listed, "no file is made in the place of a service"
    rotation.rotate(directory, issuer=ISSUER, at=LATER + timedelta(days=1), algorithms=[P256])
    assert signing(directory)[P256] != service.keyid
    assert keys.signer_uris(directory) == {}


def test_a_service_that_is_away_or_has_another_key_does_not_sign(directory: Path, service: PublicKey) -> None:
    signer = keys.open_signer("somekms:alias/a", service)
    Service.away = True
    with pytest.raises(KeyUnusable, match="does not sign: ConnectionError"):
        signer.sign(b"message")
    Service.away = False
    other = PublicKey.of(ec.derive_private_key(78, ec.SECP256R1()).public_key())
    with pytest.raises(KeyUnusable, match="not by the key that is published"):
        keys.open_signer("somekms:alias/a", other).sign(b"message")
    before = signing(directory)
    with pytest.raises(KeyUnusable, match="not for ed25519"):
        rotation.rotate(
            directory,
            issuer=ISSUER,
            at=LATER,
            algorithms=[ED25519],
            services={ED25519: ("somekms:a", service)},
        )
    assert signing(directory) == before


def test_a_token_s_pin_is_a_file_of_the_key_directory(directory: Path, service: PublicKey) -> None:
    with pytest.raises(KeyUnusable, match="does not sign"):
        keys.open_signer("somekms:pin", service, secrets=directory)
    (directory / "signer_pin").write_text("1234\n")
    assert keys.open_signer("somekms:pin", service, secrets=directory).keyid == service.keyid


def test_a_scheme_that_nobody_knows_names_those_there_are(service: PublicKey) -> None:
    with pytest.raises(KeyUnusable, match=r"no signer for 'nokms'; known: file, .*awskms.*pkcs11.*vault"):
        keys.open_signer("nokms:a", service)
    with pytest.raises(KeyUnusable, match="without the public key"):
        keys.open_signer("awskms:a")


def test_the_library_s_own_signer_of_files_is_not_a_second_way(service: PublicKey) -> None:
    assert CryptoSigner.SCHEME.startswith("file")
    with pytest.raises(KeyUnusable, match="no signer"):
        keys.open_signer(f"{CryptoSigner.SCHEME}:/key.pem", service)


def test_the_trust_file_has_nothing_new_where_nothing_happened(directory: Path) -> None:
    trust = keys.trust(keys.public_keys(directory), issuer=ISSUER)
    assert trust.keys() == {"issuer", "keys", "log"}
    assert {name for key in trust["keys"] for name in key} == {
        "keyid", "algorithm", "pem", "notBefore", "notAfter"
    }  # fmt: skip
    named = replace(keys.public_keys(directory)[0], not_trusted_after=LATER)
    assert "notTrustedAfter" in keys.trust([named], issuer=ISSUER, status="u", tsa="p")["keys"][0]
