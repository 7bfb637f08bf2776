"""Spans of calls: what a collector is told, and that nobody's words are among it."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.config import Settings
from app.http import tracing
from app.main import create_app
from tests.fixtures.api import Caller, StillClock

CANARY = "canary-7f3a@example.org"


def test_a_span_has_the_template_and_nobodys_words(
    settings: Settings, clock: StillClock, officer: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = InMemorySpanExporter()
    monkeypatch.setattr(
        tracing, "configured", lambda *, wanted: tracing.through(SimpleSpanProcessor(kept)) if wanted else {}
    )
    app = create_app(settings.model_copy(update={"tracing": True}), clock=clock)

    @app.get("/broken/{name}")
    def broken(name: str) -> None:
        raise RuntimeError(name)

    with TestClient(app, raise_server_exceptions=False) as client:
        calls = Caller(client, officer.principal_id, officer.token)
        calls.get(f"/v1/erasure-requests/{CANARY}")
        calls.get("/v1/erasure-requests", email=CANARY)
        calls.post("/v1/erasure-requests", {CANARY: CANARY, "subject": {"type": "email", "value": CANARY}})
        calls.get(f"/nowhere/{CANARY}")
        assert calls.get(f"/broken/{CANARY}").status_code == 500
        client.request("CANARY-7F3A", "/v1/erasure-requests")
    spans = kept.get_finished_spans()
    assert len(spans) == 6
    told = "\n".join(each.to_json() for each in spans)
    assert "canary" not in told.lower()
    said = [dict(each.attributes or {}) for each in spans]
    assert {each["http.route"] for each in said if "http.route" in each} >= {
        "/v1/erasure-requests",
        "/v1/erasure-requests/{request_id}",
    }
    assert [each["http.response.status_code"] for each in said] == [404, 422, 422, 404, 500, 405]


def test_spans_arrive_where_opentelemetry_is_told_to_send_them(
    settings: Settings, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()
    told: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        config = tracing.configured(wanted=True)
        monkeypatch.setattr(tracing, "configured", lambda *, wanted: config if wanted else tracing.OFF)
        app = create_app(settings.model_copy(update={"tracing": True}), clock=clock)
        with TestClient(app) as client:
            client.get("/healthz")
        assert arrived.wait(10)
        config["tracer_provider"].shutdown()  # type: ignore[union-attr]  # the SDK's, seen as the interface
        server.shutdown()
    assert told[0].startswith(b"/v1/traces")
    assert b"/healthz" in told[0]
    assert b"lethe" in told[0]


def test_off_unless_wanted(settings: Settings) -> None:
    assert not settings.tracing
    assert tracing.configured(wanted=False) == {"tracing": False, "metrics": False, "logs": False}
