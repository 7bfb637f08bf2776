"""The lines of the pages, as they stand there, on a fresh bundle: other people's tools agree.

`model_signing` is run where it is installed (`pip install model-signing`; its tree is too large for a
development extra). In LETHE_MODEL_SIGNING its command may be named.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from app.certificates import check
from app.certificates.status import Revoked
from app.cli.client import Stopped
from app.cli.main import app
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


def ours(page: Path) -> list[str]:
    """Return the commands of our own that a page shows, without what they say of themselves."""
    found = re.findall(r"^lethe .*$", page.read_text(), re.MULTILINE)
    return [each.partition("#")[0].strip() for each in found]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, the trust file and the model, unpacked as the README says."""
    folder = tmp_path_factory.mktemp("unpacked")
    (folder / "lethe-....zip").write_bytes(make_whole().bundle)
    (folder / "trust.json").write_text(json.dumps(trust()))
    lay_out(folder / "model", WHOLE)
    [line] = [each for each in ours(README) if each.startswith("lethe certificate unpack")]
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    (folder / "bundle.zip").write_bytes((folder / "lethe-....zip").read_bytes())
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shlex.split(command), cwd=folder, capture_output=True, text=True, check=False)


def test_the_pages_name_the_same_commands_and_none_that_is_not_tried() -> None:
    known = commands(HERE / "FORMAT.md")
    assert [each.split()[:2] for each in known] == [tool.split() for tool in TOOLS]
    # An issuer need not have an authority that stamps: the README leaves that one to the format's page.
    assert commands(README) == [each for each in known if not each.startswith("openssl ts")]


@pytest.mark.parametrize("line", ours(README))
def test_every_command_of_ours_in_the_readme_is_one(line: str) -> None:
    """The groups, the command and each option are there; values are as people write them."""
    words = shlex.split(line)[1:]
    command = get_command(app)
    while isinstance(command, TyperGroup):
        name = words.pop(0) if words else ""
        if name not in command.commands:
            assert command.invoke_without_command, line
            return
        command = command.commands[name]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine")
@pytest.mark.parametrize("tool", TOOLS[:2])
def test_openssl_verifies_each_signature(unpacked: Path, tool: str) -> None:
    [command] = [each for each in commands(README) if each.startswith(tool)]
    done = run(unpacked, command)
    assert done.returncode == 0, done.stderr
    pae = (unpacked / "pae.bin").read_bytes()
    (unpacked / "other.bin").write_bytes(pae[:-1] + b"?")
    assert run(unpacked, command.replace("pae.bin", "other.bin")).returncode != 0


def test_securesystemslib_verifies_the_envelope(unpacked: Path) -> None:
    [lines] = [
        each
        for each in re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
        if "securesystemslib" in each
    ]

    def verified(lines: str) -> bool:
        python = [sys.executable, "-c", lines]
        return subprocess.run(python, cwd=unpacked, capture_output=True, check=False).returncode == 0

    assert verified(lines)
    spoilt = json.loads((unpacked / "certificate.dsse.json").read_bytes())
    spoilt["signatures"].pop()
    (unpacked / "one.dsse.json").write_text(json.dumps(spoilt))
    assert not verified(lines.replace("certificate.dsse.json", "one.dsse.json"))


@pytest.mark.skipif(MODEL_SIGNING is None, reason="model_signing is not installed")
def test_model_signing_verifies_the_files(unpacked: Path) -> None:
    assert MODEL_SIGNING is not None
    [command] = [each for each in commands(README) if each.startswith("model_signing")]
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
    nowhere = CliRunner().invoke(app, [*words, "--status", str(unpacked / "nowhere")])
    assert isinstance(nowhere.exception, Stopped)
    assert nowhere.exception.code == check.UNREADABLE


def test_what_is_signed_goes_to_standard_output(unpacked: Path) -> None:
    done = CliRunner().invoke(app, ["certificate", "pae", str(unpacked / "bundle.zip")])
    assert (done.exit_code, done.stdout_bytes) == (0, (unpacked / "pae.bin").read_bytes())
