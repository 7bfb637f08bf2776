"""Whether the process says truly how it stands."""

import gc
import weakref
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.auth import tokens
from app.config import Settings
from app.main import create_app
from app.storage.database import Transaction
from app.storage.keyring import KeyMissing


def test_ready_before_any_model_exists_and_it_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["next"].startswith("no model is registered yet: ")


def test_nothing_more_to_say_once_there_is_a_model(client: TestClient, model: UUID) -> None:
    assert client.get("/readyz").json() == {
        "status": "ready",
        "parts": {"postgres": "ok", "redis": "none"},
        "next": None,
    }


def test_an_app_that_nobody_uses_any_more_is_no_more(settings: Settings) -> None:
    """FastAPI keeps the functions that it calls: one that holds its app keeps all that the app made, too."""

    def used() -> weakref.ref[FastAPI]:
        app = create_app(settings)
        with TestClient(app) as client:
            for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
                assert client.get(path).is_success
        return weakref.ref(app)

    app = used()
    gc.collect()
    assert app() is None


def test_without_redis_the_service_is_degraded_and_serves(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/redis.sock?db=0"})
    with TestClient(create_app(away)) as client:
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


def test_an_older_database_is_not_served(client: TestClient, transaction: Transaction) -> None:
    with transaction() as session:
        head = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    answer = client.get("/readyz")
    with transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": head})
    assert (answer.status_code, answer.json()["parts"]["postgres"]) == (503, "pending")


def test_without_a_database_the_process_lives_and_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://x@/x?host={tmp_path}"})
    with TestClient(create_app(away)) as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/readyz").status_code == 503
        headers = {"Authorization": f"Bearer {tokens.mint()}"}
        assert client.get("/v1/erasure-requests", headers=headers).status_code == 503


def test_metrics_have_templates_and_no_ids(client: TestClient) -> None:
    client.get("/v1/erasure-requests/er_01h455vb4pex5vsknk084sn02q")
    said = client.get("/metrics").text
    assert 'route="/v1/erasure-requests/{request_id}"' in said
    assert "er_01h455" not in said


def test_production_makes_no_keys_of_its_own(settings: Settings) -> None:
    with pytest.raises(KeyMissing):
        create_app(settings.model_copy(update={"profile": "production"}))


def test_a_database_must_be_named(settings: Settings) -> None:
    with pytest.raises(ValueError, match="LETHE_DATABASE_URL"):
        create_app(settings.model_copy(update={"database_url": None}))
