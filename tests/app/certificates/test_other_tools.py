"""The commands of the pages, as they stand there, on a fresh bundle: other people's tools agree.

`model_signing` is run where it is installed (`pip install model-signing`; its tree is too large for a
development extra). In LETHE_MODEL_SIGNING its command may be named.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]  # exported without saying so
from typer.testing import CliRunner

from app.certificates import check
from app.certificates.status import Revoked
from app.cli.client import Stopped
from app.cli.main import app
from app.signing.keys import PublicKey
from tests.app.certificates.making import (
    CERTIFICATE_ID,
    LATER,
    STATED,
    WHOLE,
    lay_out,
    make_whole,
    status_of,
    trust,
)

HERE = Path(check.__file__).parent
README = HERE.parents[1] / "README.md"
TOOLS = "openssl pkeyutl", "openssl dgst", "openssl ts", "model_signing verify"
MODEL_SIGNING = os.environ.get("LETHE_MODEL_SIGNING") or shutil.which("model_signing")


def commands(page: Path) -> list[str]:
    """Return the commands of a page that use these tools."""
    found = re.findall(r"^(?:    )?((?:openssl|model_signing) .*)$", page.read_text(), re.MULTILINE)
    return [each.strip() for each in found if each.startswith(TOOLS)]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle as `lethe certificate unpack` lays it out, and the model beside it."""
    folder = tmp_path_factory.mktemp("unpacked")
    (folder / "bundle.zip").write_bytes(make_whole().bundle)
    (folder / "trust.json").write_text(json.dumps(trust()))
    words = [
        "certificate",
        "unpack",
        f"{folder}/bundle.zip",
        "--trust",
        f"{folder}/trust.json",
        "--out",
        str(folder),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    lay_out(folder / "model", WHOLE)
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=False)


def test_the_readme_names_no_command_that_is_not_tried() -> None:
    known = commands(HERE / "FORMAT.md")
    assert [each.split()[:2] for each in known] == [tool.split() for tool in TOOLS]
    assert set(commands(README)) <= set(known)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
@pytest.mark.parametrize("tool", TOOLS[:2])
def test_openssl_verifies_each_signature(unpacked: Path, tool: str) -> None:
    [command] = [each for each in commands(HERE / "FORMAT.md") if each.startswith(tool)]
    done = run(unpacked, command)
    assert done.returncode == 0, done.stderr
    pae = (unpacked / "pae.bin").read_bytes()
    (unpacked / "other.bin").write_bytes(pae[:-1] + b"?")
    assert run(unpacked, command.replace("pae.bin", "other.bin")).returncode != 0


def test_securesystemslib_verifies_the_envelope(unpacked: Path) -> None:
    envelope = Envelope.from_dict(json.loads((unpacked / "certificate.dsse.json").read_bytes()))
    keys: list[Key] = []
    for entry in trust()["keys"]:
        key = PublicKey.from_json(entry)
        keys.append(SSlibKey.from_crypto(key.load(), keyid=key.keyid))
    assert len(envelope.verify(keys, threshold=2)) == 2


@pytest.mark.skipif(MODEL_SIGNING is None, reason="model_signing is not installed")
def test_model_signing_verifies_the_files(unpacked: Path) -> None:
    assert MODEL_SIGNING is not None
    [command] = [each for each in commands(HERE / "FORMAT.md") if each.startswith("model_signing")]
    command = command.replace("model_signing", shlex.quote(MODEL_SIGNING), 1)
    done = run(unpacked, command)
    assert done.returncode == 0, done.stdout + done.stderr
    lay_out(unpacked / "other", {**WHOLE, "config.json": b"{ }"})
    assert run(unpacked, command.replace(" model ", " other ")).returncode != 0


def test_a_later_list_is_named_on_the_command_line(unpacked: Path) -> None:
    words = ["certificate", "check", str(unpacked / "bundle.zip"), "--trust", str(unpacked / "trust.json")]
    words += ["--at", LATER.isoformat()]
    assert CliRunner().invoke(app, words).exit_code == check.VALID
    for name, listed in (
        ("none", []),
        ("some", [Revoked(certificate_id=CERTIFICATE_ID, reason="superseded", since=STATED)]),
    ):
        (unpacked / name).write_bytes(status_of(*listed))
        done = CliRunner().invoke(app, [*words, "--status", str(unpacked / name)])
        assert done.exit_code == (check.REVOKED if listed else check.VALID), done.output
    failed = CliRunner().invoke(app, [*words, "--status", str(unpacked / "nowhere")]).exception
    assert isinstance(failed, Stopped)
    assert failed.code == check.UNREADABLE


def test_what_is_signed_goes_to_standard_output(unpacked: Path) -> None:
    done = CliRunner().invoke(app, ["certificate", "pae", str(unpacked / "bundle.zip")])
    assert (done.exit_code, done.stdout_bytes) == (0, (unpacked / "pae.bin").read_bytes())
