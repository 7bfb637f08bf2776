"""The log's key: made once, private, under the name that it keeps."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.signing.keys import KeyUnusable
from app.transparency import keys
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import NoteRefused
from app.transparency.policies import PolicyRefused
from tests.app.transparency.logs import SIGNER

ISSUER = "https://issuer.example"
AT = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("issuer", "origin"),
    [
        ("https://issuer.example", "issuer.example/log/2026"),
        ("https://issuer.example:8443/tenant/", "issuer.example:8443/tenant/log/2026"),
        ("acme", "acme/log/2026"),
    ],
)
def test_a_log_is_named_after_its_issuer_and_year(issuer: str, origin: str) -> None:
    assert keys.origin_of(issuer, AT) == origin


def test_the_key_is_made_once_and_keeps_its_name(tmp_path: Path) -> None:
    made = keys.generate(tmp_path / "keys", issuer=ISSUER, at=AT)
    again = keys.generate(tmp_path / "keys", issuer="https://other.example", at=AT.replace(year=2030))
    assert made == again
    assert [party.key.name for party in made.logs] == ["issuer.example/log/2026"]
    assert made.quorum == "none"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {keys.PRIVATE_FILE: 0o600, keys.POLICY_FILE: 0o644}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_what_it_signs_its_policy_opens(tmp_path: Path) -> None:
    policy = keys.generate(tmp_path, issuer=ISSUER, at=AT)
    signer = keys.open_log(tmp_path)
    made = Checkpoint(origin=signer.key.name, size=3, root=bytes(32))
    assert policy.opened(signer.sign(made).encode()).checkpoint == made
    assert signer.sign(made) == signer.sign(made)
    assert "PrivateKey" not in repr(signer)
    with pytest.raises(NoteRefused, match="does not sign for"):
        signer.sign(Checkpoint(origin="other.example/log", size=3, root=bytes(32)))


def test_without_key_or_policy_there_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(keys.NoLog):
        keys.read_policy(tmp_path)
    keys.generate(tmp_path, issuer=ISSUER, at=AT)
    (tmp_path / keys.POLICY_FILE).write_text(f"log {SIGNER.key}\nquorum none\n")
    with pytest.raises(PolicyRefused, match="does not name the key"):
        keys.open_log(tmp_path)
    (tmp_path / keys.PRIVATE_FILE).unlink()
    with pytest.raises(KeyUnusable):
        keys.open_log(tmp_path)
