"""The production shape says what the code understands, and nothing secret."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import Settings
from app.queue import Stage
from workers.celery_app import COURIER_QUEUE

ROOT = Path(__file__).resolve().parents[2]
OTHER_VARIABLES = {"LETHE_DATABASE_PASSWORD_FILE", "LETHE_WORKER"}
ONE_SHOT = {"keys", "migrate"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def test_every_part_is_there_and_says_when_it_is_well(compose: dict[str, Any]) -> None:
    expected = {
        "postgres",
        "redis",
        "keys",
        "migrate",
        "api",
        "model-server",
        "worker-gpu",
        "worker-io",
        "beat",
    }
    assert services(compose).keys() == expected
    assert {name for name, each in services(compose).items() if "healthcheck" not in each} == ONE_SHOT


def test_the_workers_serve_every_queue(compose: dict[str, Any]) -> None:
    gpu = re.search(r'"-Q", "([^"]+)"', (ROOT / "Dockerfile").read_text())
    assert gpu is not None
    io = services(compose)["worker-io"]["command"]
    served = {*gpu[1].split(","), *io[io.index("-Q") + 1].split(",")}
    assert served == {stage.queue for stage in Stage} | {COURIER_QUEUE}


def test_every_setting_is_one_that_we_read(compose: dict[str, Any]) -> None:
    for each in services(compose).values():
        ours = (
            {name for name in each["environment"] if name.startswith("LETHE_")}
            if "environment" in each
            else set()
        )
        known = {f"LETHE_{field.upper()}" for field in Settings.model_fields} | OTHER_VARIABLES
        assert ours <= known


def test_what_is_started_exists(compose: dict[str, Any]) -> None:
    for each in services(compose).values():
        for word in each.get("command", ()):
            if word.startswith(("workers.", "app.")):
                assert importlib.util.find_spec(word.partition(":")[0]) is not None
        target = each.get("build", {}).get("target")
        assert target is None or f" AS {target}\n" in (ROOT / "Dockerfile").read_text()


def test_nothing_secret_is_in_it(compose: dict[str, Any]) -> None:
    for each in services(compose).values():
        for name, value in each.get("environment", {}).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|KEY$", name.removesuffix("_FILE")) or name.endswith(
                "_FILE"
            )
            assert not re.search(r"://[^/]*:[^/]*@", str(value)), "a URL carries no password"
    assert compose["secrets"] == {
        name: {"file": f"${{LETHE_SECRETS:-./secrets}}/{name}"}
        for name in ("database_password", "database_owner_password")
    }
    holding = {
        name
        for name, each in services(compose).items()
        if "database_owner_password" in each.get("secrets", ())
    }
    assert holding == {"postgres", "migrate"}, "nothing else can be who owns the tables"


def test_every_volume_is_named(compose: dict[str, Any]) -> None:
    used = {
        volume.partition(":")[0] for each in services(compose).values() for volume in each.get("volumes", ())
    }
    assert used == compose["volumes"].keys()
