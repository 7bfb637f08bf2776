"""A certificate frozen with the first edition of the format: later checkers must still accept it.

`certificate/bundle.zip` was made from the facts, keys and nonces of `tests/app/certificates/making.py`.
"""

import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path

from app.certificates import check, statement
from app.signing import canonical, envelope
from tests.app.certificates.making import LATER, facts

FOLDER = Path(__file__).parent / "certificate"
WHOLE_PAE_SHA256 = "0f37327d4b50b239e63f10090ba81ccbb9704f5ce0ee0e53d11eccb49fc746a4"
PAE_SHA256 = "b66940bfa39e0478bbef55fca08a6629ecb4fd637c5aeb4949a5b1a8242aeeaa"


def test_it_is_still_valid() -> None:
    trust = json.loads((FOLDER / "trust.json").read_text())
    report = check.check((FOLDER / "bundle.zip").read_bytes(), trust, at=LATER)
    assert report.exit_code == check.VALID
    assert report.claim["pae_sha256"] == PAE_SHA256


def test_one_that_is_logged_and_witnessed_is_still_valid() -> None:
    """`logged.zip` was frozen with the first edition of the log's formats."""
    trust = json.loads((FOLDER / "logged-trust.json").read_text())
    report = check.check((FOLDER / "logged.zip").read_bytes(), trust, at=LATER)
    assert report.exit_code == check.VALID
    assert report.steps[5]["detail"] == "entry 2 of 5 in issuer.example/log/2026, cosigned by W1, W2"
    assert report.claim["pae_sha256"] == PAE_SHA256


def test_one_with_its_publication_and_a_status_is_still_valid() -> None:
    """`whole.zip` was frozen with the first edition of publications and of the list of revocations."""
    trust = json.loads((FOLDER / "whole-trust.json").read_text())
    data = (FOLDER / "whole.zip").read_bytes()
    report = check.check(data, trust, at=LATER)
    assert report.exit_code == check.VALID
    assert [each["state"] for each in report.steps] == ["passed"] * 9 + ["not checked"] + ["passed"] * 2
    assert report.claim["pae_sha256"] == WHOLE_PAE_SHA256
    assert check.check(data, trust, at=LATER + timedelta(days=30)).exit_code == check.STATUS_STALE


def test_the_same_facts_still_give_the_same_bytes() -> None:
    with zipfile.ZipFile(io.BytesIO((FOLDER / "bundle.zip").read_bytes())) as archive:
        frozen = envelope.payload_of(envelope.decode(archive.read(check.CERTIFICATE)))
    assert canonical.encode(statement.build(facts())) == frozen
    assert envelope.pae_sha256(frozen) == PAE_SHA256
