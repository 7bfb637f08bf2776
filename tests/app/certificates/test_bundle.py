"""The bundle: the same bytes each time, the right members, words that other tools follow."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.certificates import bundle, check
from tests.app.certificates.making import CERTIFICATE_ID, ISSUER, Made, make, sha256, signers

MEMBERS = {"certificate.dsse.json": b"a", "certificate.sigstore.json": b"b", "manifest.json": b"c"}


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def test_the_same_members_give_the_same_bytes() -> None:
    backwards = dict(reversed(MEMBERS.items()))
    assert bundle.write(MEMBERS) == bundle.write(backwards)
    frozen = "6b5ad753d56d200245b9af11a6c9f5b97f6e2c0b57953de2870d0877809ded73"
    assert sha256(bundle.write(MEMBERS)) == frozen


def test_members_are_sorted_stored_and_of_no_date(made: Made) -> None:
    with zipfile.ZipFile(io.BytesIO(made.bundle)) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted({*check.REQUIRED, check.HOWTO, check.OPENING, check.PROOF})
    assert {(entry.date_time, entry.compress_type) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0)}


def test_other_members_are_refused() -> None:
    for wrong in ({**MEMBERS, "notes.txt": b""}, {"manifest.json": b""}):
        with pytest.raises(ValueError, match="other members"):
            bundle.write(wrong)
    with pytest.raises(ValueError, match="larger than"):
        bundle.write({**MEMBERS, "opening.json": bytes(check.MEMBER_BYTES_MAX + 1)})


def test_only_the_requesters_copy_holds_the_opening() -> None:
    with zipfile.ZipFile(io.BytesIO(make(with_opening=False).bundle)) as archive:
        assert "opening.json" not in archive.namelist()


def test_a_stranger_cannot_be_made_the_signer(made: Made) -> None:
    with pytest.raises(ValueError, match="must have signed"):
        bundle.assemble(
            envelope_bytes=made.envelope, manifest=made.manifest, p256_keyids=[signers(2)[1].keyid],
            certificate_id=CERTIFICATE_ID, issuer=ISSUER,
        )  # fmt: skip


def test_the_file_is_named_by_the_certificate() -> None:
    assert bundle.name(CERTIFICATE_ID) == "lethe-8d1c6c0e-7a54-4e7e-9a55-0f3b0f6f2c11.zip"


def test_the_words_name_the_checker_and_where_to_get_it() -> None:
    text = bundle.how_to_verify(certificate_id=CERTIFICATE_ID, issuer=ISSUER)
    assert sha256(bundle.checker()) in text
    assert ISSUER in text
    assert "elsewhere" in text
    assert "{" not in text.replace("{t}", "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
def test_the_commands_in_the_words_work(made: Made, tmp_path: Path) -> None:
    """Unzip, split the envelope with the printed Python, verify with the printed openssl commands."""
    with zipfile.ZipFile(io.BytesIO(made.bundle)) as archive:
        archive.extractall(tmp_path)
    text = (tmp_path / "HOWTO-VERIFY.md").read_text()
    block = re.search(r"(?:^    .*\n)*^    import base64.*\n(?:^    .*\n)+", text, re.MULTILINE)
    assert block is not None
    script = "\n".join(line[4:] for line in block.group().splitlines())
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    first, second = (signer.public for signer in signers())
    (tmp_path / "ed25519.pem").write_text(first.pem)
    (tmp_path / "p256.pem").write_text(second.pem)
    commands = re.findall(r"^    (openssl .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = command.replace("ED25519_KEYID", first.keyid).replace("P256_KEYID", second.keyid).split()
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
