"""The log's key: made once, private, under the name that it keeps."""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.signing import envelope, rotation
from app.signing import keys as signing
from app.signing.keys import KeyUnusable
from app.transparency import keys
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import WITNESS_KIND, NoteRefused
from app.transparency.policies import Policy, PolicyRefused
from tests.app.transparency.logs import SIGNER, verifier

ISSUER = "https://issuer.example"
AT = datetime(2026, 11, 21, tzinfo=UTC)
WITNESS = verifier("witness.example/w1", 21, WITNESS_KIND)


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


# One key after the other


def private_names(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("log_ed25519*")}


def test_while_both_sign_whoever_knows_either_key_goes_on(tmp_path: Path) -> None:
    before = keys.generate(tmp_path, issuer=ISSUER, at=AT)
    [old] = [party.key for party in before.logs]
    new = keys.rotate(tmp_path)
    assert (new.name, new.public != old.public) == (old.name, True), "one log: its name stays"
    after = keys.read_policy(tmp_path)
    assert [party.key for party in after.logs] == [new, old]
    note = keys.open_log(tmp_path).sign(checkpoint(old.name)).encode()
    for policy in (before, after, Policy.parse(f"log {new}\nquorum none\n")):
        assert policy.opened(note).checkpoint == checkpoint(old.name)
    assert note == keys.open_log(tmp_path).sign(checkpoint(old.name)).encode(), "the same bytes each time"
    with pytest.raises(KeyUnusable, match="two keys sign the log already"):
        keys.rotate(tmp_path)


def test_after_it_the_new_key_signs_alone_and_old_notes_still_open(tmp_path: Path) -> None:
    before = keys.generate(tmp_path, issuer=ISSUER, at=AT)
    old = keys.open_log(tmp_path).sign(checkpoint(before.logs[0].key.name)).encode()
    assert not keys.retire(tmp_path)
    keys.rotate(tmp_path)
    assert keys.retire(tmp_path)
    assert private_names(tmp_path) == {keys.PRIVATE_FILE}
    new = keys.open_log(tmp_path).sign(checkpoint(before.logs[0].key.name)).encode()
    after = keys.read_policy(tmp_path)
    assert after.opened(old).checkpoint == after.opened(new).checkpoint
    with pytest.raises(NoteRefused, match="no key that is trusted"):
        before.opened(new)


def test_witnesses_and_remarks_stay_in_the_policy(tmp_path: Path) -> None:
    keys.generate(tmp_path, issuer=ISSUER, at=AT)
    path = tmp_path / keys.POLICY_FILE
    path.write_text(path.read_text().replace("quorum none", f"witness W1 {WITNESS}\nquorum W1"))
    before = path.read_text()
    new = keys.rotate(tmp_path)
    assert path.read_text().replace(f"log {new}\n", "") == before
    assert keys.read_policy(tmp_path).quorum == "W1"


@pytest.mark.parametrize("moment", ["policy", "aside"])
def test_killed_within_it_another_call_finishes(tmp_path: Path, moment: str) -> None:
    keys.generate(tmp_path, issuer=ISSUER, at=AT)
    current, following = tmp_path / keys.PRIVATE_FILE, tmp_path / keys.NEXT_FILE
    held = current.read_bytes()
    new = keys.rotate(tmp_path)
    # As it was a moment earlier: the policy names the new key, which nobody signs with yet.
    current.rename(following)
    if moment == "policy":
        (tmp_path / keys.BEFORE_FILE).rename(current)
    assert keys.rotate(tmp_path) == new
    assert private_names(tmp_path) == {keys.PRIVATE_FILE, keys.BEFORE_FILE}
    assert (tmp_path / keys.BEFORE_FILE).read_bytes() == held
    assert len(keys.read_policy(tmp_path).logs) == 2


def test_the_log_s_keys_are_stated_by_the_issuer_s(tmp_path: Path) -> None:
    signing.generate(tmp_path, at=AT)
    keys.generate(tmp_path, issuer=ISSUER, at=AT)
    keys.introduce(tmp_path, issuer=ISSUER, at=AT)
    keys.rotate(tmp_path)
    keys.introduce(tmp_path, issuer=ISSUER, at=AT)
    said = [json.loads(envelope.payload_of(each))["predicate"] for each in rotation.stated(tmp_path)]
    assert sorted(each["use"] for each in said) == ["checkpoints"] * 2 + ["statements"] * 2
    trusted = signing.public_keys(tmp_path)
    assert rotation.followed(trusted, rotation.stated(tmp_path)) == trusted, "a log's key signs no statement"
    for each in rotation.stated(tmp_path):
        envelope.verify(each, trusted)


def checkpoint(origin: str) -> Checkpoint:
    return Checkpoint(origin=origin, size=1, root=bytes(32))
