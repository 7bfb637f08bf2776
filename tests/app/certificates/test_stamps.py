"""Time stamps by a real authority on this computer: asked, verified, kept, checked; and when it is away."""

import base64
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.certificates import check, stamping
from app.certificates.stamps import Authority, NotStamped
from app.signing import canonical, keys
from app.signing.envelope import ED25519, P256
from tests.app.certificates import authority as authorities
from tests.app.certificates.issuing import EXACT, Issuer, members
from tests.app.certificates.making import Made, make, signers, trust
from tests.app.certificates.test_check import detail, packed, refused, state
from tests.fixtures.world import ADA

pytest.importorskip("rfc3161_client", reason="time stamps need the extra `timestamps`")
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authorities.lay_out(tmp_path_factory.mktemp("tsa"))


@pytest.fixture(scope="module")
def authority(folder: Path) -> Iterator[Authority]:
    with authorities.serving(folder) as found:
        yield found


def signatures(made: Made) -> dict[str, bytes]:
    found = {each["keyid"]: base64.b64decode(each["sig"]) for each in json.loads(made.envelope)["signatures"]}
    return {signer.algorithm: found[signer.keyid] for signer in signers()}


@pytest.fixture(scope="module")
def stamped(authority: Authority) -> Made:
    """Return a certificate of this minute, with both its signatures stamped."""
    # ECDSA draws afresh each time: stamp the very signatures that go into the bundle.
    made = make(issued_at=NOW)
    signed = signatures(made)
    data = json.loads(members(made.bundle)[check.SIGSTORE])
    token = base64.b64encode(authority.stamp(signed[P256])).decode()
    data["verificationMaterial"]["timestampVerificationData"] = {
        "rfc3161Timestamps": [{"signedTimestamp": token}]
    }
    more = {check.STAMP: authority.stamp(signed[ED25519]), check.SIGSTORE: canonical.encode(data)}
    return replace(made, bundle=packed(made, dict(more)))


def trusting(authority: Authority, **changes: Any) -> dict[str, Any]:
    """Return a trust file that names the authority, and no log: the stamp is what tells the time."""
    return trust(tsa=authority.roots.decode(), log=None, **changes)


def run(made: Made, trusted: Any) -> check.Report:
    return check.check(made.bundle, trusted, at=NOW + timedelta(hours=1))


def test_both_tokens_are_checked_and_say_when(stamped: Made, authority: Authority) -> None:
    report = run(stamped, trusting(authority))
    assert report.exit_code == check.VALID, report.to_text()
    assert detail(report, 10) == "2 RFC 3161 tokens by the trusted authority"
    assert "seen by RFC 3161 until 20" in detail(report, 9)


def test_an_authority_that_is_not_trusted_counts_for_nothing(stamped: Made, tmp_path: Path) -> None:
    report = run(stamped, trust(log=None))
    assert (report.exit_code, state(report, 10)) == (check.VALID, "not checked")
    assert "2 RFC 3161 time stamps by an authority that is not trusted" in detail(report, 10)
    assert "no independent evidence" in detail(report, 9)
    other = Authority.at("http://127.0.0.1:1/", authorities.lay_out(tmp_path) / "root.pem")
    assert refused(run(stamped, trusting(other)), 10)


def test_a_token_over_another_signature_is_refused(stamped: Made, authority: Authority) -> None:
    wrong = authority.stamp(b"another signature")
    assert refused(
        run(replace(stamped, bundle=packed(stamped, {check.STAMP: wrong})), trusting(authority)), 10
    )


def test_a_stamp_is_independent_evidence_against_a_stolen_key(stamped: Made, authority: Authority) -> None:
    for since, stands in ((NOW + timedelta(minutes=30), True), (NOW - timedelta(minutes=30), False)):
        trusted = trusting(authority)
        trusted["keys"][0]["notTrustedAfter"] = check.instant(since)
        report = run(stamped, trusted)
        assert (report.exit_code == check.VALID) is stands
        assert stands or refused(report, 9)


def test_without_the_library_it_says_how_else(
    stamped: Made, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    report = run(stamped, trusting(authority))
    assert (report.exit_code, state(report, 10)) == (check.VALID, "not checked")
    assert "openssl ts -verify -in timestamp.tsr -data ED25519.sig -CAfile tsa.pem" in detail(report, 10)


def test_openssl_verifies_what_is_kept(stamped: Made, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "root.pem", tmp_path / "tsa.pem")
    (tmp_path / "timestamp.tsr").write_bytes(members(stamped.bundle)[check.STAMP])
    (tmp_path / "ed25519.sig").write_bytes(signatures(stamped)[ED25519])
    authorities.openssl(tmp_path, "ts -verify -in timestamp.tsr -data ed25519.sig -CAfile tsa.pem")


# At the issuer


def test_the_stamps_that_are_missing_are_taken_once(
    issuer: Issuer, model: UUID, authority: Authority
) -> None:
    issuer.desk.clock.instant = NOW - timedelta(seconds=5)
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA), EXACT)
    public = [
        replace(each, not_before=NOW - timedelta(days=1)) for each in keys.public_keys(issuer.settings.keys)
    ]
    away = replace(authority, url="http://127.0.0.1:1/")
    with pytest.raises(NotStamped, match="does not answer"):
        stamping.stamp(issuer.desk.transaction, away, public_keys=public)
    assert check.STAMP not in members(issuer.fetched(certificate_id)), "it goes out without"
    assert stamping.stamp(issuer.desk.transaction, authority, public_keys=public) == 1
    assert stamping.stamp(issuer.desk.transaction, authority, public_keys=public) == 0
    trusted = keys.trust(public, issuer=issuer.settings.issuer, tsa=authority.roots.decode())
    data = issuer.fetched(certificate_id)
    report = check.check(data, trusted, at=NOW + timedelta(hours=1))
    assert report.exit_code == check.VALID, report.to_text()
    assert state(report, 10) == "passed"


def test_what_does_not_verify_is_not_kept(authority: Authority, folder: Path, tmp_path: Path) -> None:
    pinned = replace(authority, roots=(authorities.lay_out(tmp_path) / "root.pem").read_bytes())
    with pytest.raises(NotStamped, match="does not verify"):
        pinned.stamp(b"message")
    token = authority.stamp(b"message")
    authority.verify(token, b"message")
    for wrong in (b"", token[:-1], b"another"):
        with pytest.raises(NotStamped):
            authority.verify(wrong if wrong != b"another" else token, wrong)
    assert (folder / "reply.tsr").exists()
