"""A certificate frozen with the first edition of the format: later checkers must still accept it.

`certificate/bundle.zip` was made from the facts, keys and nonces of `tests/app/certificates/making.py`.
"""

import io
import json
import zipfile
from pathlib import Path

from app.certificates import check, statement
from app.signing import canonical, envelope
from tests.app.certificates.making import LATER, facts

FOLDER = Path(__file__).parent / "certificate"
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


def test_the_same_facts_still_give_the_same_bytes() -> None:
    with zipfile.ZipFile(io.BytesIO((FOLDER / "bundle.zip").read_bytes())) as archive:
        frozen = envelope.payload_of(envelope.decode(archive.read(check.CERTIFICATE)))
    assert canonical.encode(statement.build(facts())) == frozen
    assert envelope.pae_sha256(frozen) == PAE_SHA256
