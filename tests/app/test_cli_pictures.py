"""`lethe certificate show` and `lethe fleet`: of a bundle nobody is asked, of an ID the API is."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.certificates.picture import Scene
from app.cli import drawing, main
from app.cli.client import Stopped
from app.config import Settings
from app.signing import keys
from tests.app.certificates import making
from tests.app.certificates.issuing import Issuer
from tests.app.jobs.batches import Desk
from tests.fixtures.api import Callers, StillClock
from tests.fixtures.world import ADA, World

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return what runs a command line: exit code, stdout, stderr."""
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("LETHE_API_KEY", "LETHE_URL", "LETHE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lethe", *words])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), said.out, said.err

    return run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = making.make(issued_at=datetime(2020, 1, 2, tzinfo=UTC), received_on=date(2020, 1, 1))
    path = tmp_path / "lethe.zip"
    path.write_bytes(made.bundle)
    return path


def test_a_bundle_is_shown_without_asking_anybody(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    page, image = tmp_path / "page.html", tmp_path / "picture.png"
    pytest.importorskip("PIL")
    code, out, err = cli("certificate", "show", str(bundle), "--html", str(page), "--png", str(image))
    assert code == 0
    assert "Level verified" in out
    assert "residual_ratio_upper" in out
    assert "Ranks are in the verification report" in out
    assert "L-OUTPUT" in out
    assert "13.0 %" in page.read_text(encoding="utf-8")
    assert image.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert str(page) in err


def test_as_json_it_is_the_statement(cli: Cli, bundle: Path) -> None:
    [found] = json.loads(cli("--json", "certificate", "show", str(bundle))[1])
    assert found["statement"]["predicate"]["assurance"]["level"] == "verified"
    assert found["report"] is None


def test_what_is_no_certificate_is_not_drawn(cli: Cli, tmp_path: Path) -> None:
    false = tmp_path / "false.zip"
    false.write_bytes(b"PK")
    code, out, err = cli("certificate", "show", str(false))
    assert (code, out) == (2, "")
    assert "does not hold together" in err
    assert cli("certificate", "show", str(tmp_path / "none.zip"))[0] == 2


def test_without_pillow_one_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Stopped, match=r"pip install 'lethe\[pictures\]'"):
        drawing.png(Scene())


def _answering(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    """Let the command's calls reach the API of this process."""

    def send(method: str, url: str, *, json: Any, params: Any, headers: Any, **_: Any) -> httpx.Response:
        path = httpx.URL(url).raw_path.decode()
        with capture_logs():  # the API is in this process, and its log is not what is tested
            answer: Any = client.request(method, path, json=json, params=params, headers=headers)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    monkeypatch.setattr(httpx, "request", send)


@pytest.mark.parametrize(("role", "sees"), [("privacy_officer", True), ("viewer", False)])
def test_of_an_id_an_auditor_sees_the_report_and_others_the_bundle(
    cli: Cli, client: TestClient, app: FastAPI, world: World, model: UUID, clock: StillClock, settings: Settings,
    callers: Callers, monkeypatch: pytest.MonkeyPatch, role: str, *, sees: bool,
) -> None:  # fmt: skip
    keys.generate(settings.keys, at=clock() - timedelta(days=1))
    issuer = Issuer(
        desk=Desk.of(world, app.state.calendar, clock), objects=app.state.objects, settings=settings
    )
    certificate = issuer.certificate(model, issuer.desk.asked(ADA))
    _answering(monkeypatch, client)
    monkeypatch.setenv("LETHE_API_KEY", callers("reader", role).token)
    monkeypatch.setattr(
        "app.certificates.check.SKEW_MAX", timedelta(days=36500)
    )  # the API's clock stands still
    [found] = json.loads(cli("--json", "certificate", "show", str(certificate))[1])
    assert found["statement"]["predicate"]["certificateId"] == f"urn:uuid:{certificate}"
    assert (found["report"] is not None) is sees
    assert cli("certificate", "show", str(certificate))[0] == 0


def test_a_fleet_without_verdicts_is_quiet(
    cli: Cli, client: TestClient, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answering(monkeypatch, client)
    monkeypatch.setenv("LETHE_API_KEY", callers("reader", "auditor").token)
    assert cli("fleet") == (0, "nothing yet\n", "")
    assert json.loads(cli("--json", "fleet")[1])["alarms"] == []


def test_an_alarm_of_the_fleet_ends_with_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    group = {"model": "m", "engine": "e", "m": 199, "requests": 20, "low": 5, "low_max": 4}
    body = {
        "alarms": ["5 of 20 requests look detected"],
        "groups": [group],
        "evidence": [{"model": "m", "engine": "e", "e_value": "2.5"}],
        "survival": [],
        "qualifications": [
            {
                "model": "m", "engine": "e", "configuration": "ab" * 32, "state": "admitted",
                "sentinels": 200, "losses": 0, "risk_upper": "0.014868",
            }
        ],
    }  # fmt: skip
    answer = httpx.Response(200, content=json.dumps(body))
    monkeypatch.setattr(httpx, "request", lambda *_, **__: answer)
    monkeypatch.setenv("LETHE_API_KEY", "lethe_any")
    code, out, err = cli("fleet")
    assert (code, err) == (1, "alarm: 5 of 20 requests look detected\n")
    assert "2.5" in out
    assert "e abababababab on m is admitted: 0 losses of 200 sentinels, risk at most 0.014868" in " ".join(
        out.split()
    )
