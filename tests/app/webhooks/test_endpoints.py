"""Webhook endpoints over HTTP: who may, what is shown once, what is refused."""

import pytest
from sqlalchemy import select

from app.storage import sealing
from app.storage.sealing import SealBroken
from app.tables import AuditEvent, WebhookSecret
from app.webhooks import service, signature
from tests.app.webhooks.conftest import ENDPOINTS, Desk
from tests.app.webhooks.receivers import Receiver
from tests.fixtures.api import Caller

URL = "http://127.0.0.1:9/lethe"


def test_an_endpoint_is_created_and_its_secret_shown_once(desk: Desk, hook: Receiver) -> None:
    answer = desk.admin.post(ENDPOINTS, {"url": hook.url, "events": ["request.*", "request.*"]}, key="one")
    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["location"] == f"{ENDPOINTS}/{body['id']}"
    assert len(signature.read_secret(body["secret"])) == 32
    assert [len(signature.read_public(each)) for each in body["public_keys"]] == [32]
    assert (body["events"], body["state"], body["reason"], body["waiting"]) == (
        ["request.*"],
        "active",
        None,
        0,
    )
    # Neither a second try of the same call, nor any later one, shows it.
    again = desk.admin.post(ENDPOINTS, {"url": hook.url, "events": ["request.*", "request.*"]}, key="one")
    assert (again.status_code, again.json()["code"]) == (409, "receipt-not-kept")
    assert "secret" not in desk.read(body)
    assert "secret" not in desk.admin.get(ENDPOINTS).json()["items"][0]


def test_a_secret_is_sealed_for_its_place(desk: Desk) -> None:
    body = desk.endpoint(URL)
    secret = signature.read_secret(body["secret"])
    with desk.transaction() as session:
        row = session.scalars(select(WebhookSecret)).one()
        assert secret not in bytes(row.sealed_secret) + bytes(row.sealed_key)
        [keys] = service.keys_of(session, row.endpoint_id, seal=desk.sender.seal, at=desk.clock())
        assert keys.secret == secret
        assert signature.shown_public(keys.public) == body["public_keys"][0]
        with pytest.raises(SealBroken):
            service.keys_of(session, row.endpoint_id, seal=bytes(32), at=desk.clock())
        with pytest.raises(SealBroken):
            sealing.unseal(desk.sender.seal, bytes(row.sealed_secret), about="another place")


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"url": "https://hooks.example/", "events": ["request.*"]}, "/url", "host-not-listed"),
        ({"url": "http://a@127.0.0.1/", "events": ["request.*"]}, "/url", "url-malformed"),
        ({"url": URL, "events": ["request.moved", "key.created"]}, "/events/1", "unknown-kind"),
        ({"url": URL, "events": ["requests.*"]}, "/events/0", "unknown-kind"),
        ({"url": URL, "events": []}, "/events", "too_short"),
        ({"url": URL}, "/events", "missing"),
        ({"url": URL, "events": ["Ada Lovelace"]}, "/events/0", "string_pattern_mismatch"),
    ],
)
def test_what_is_refused_is_told_by_its_place(
    desk: Desk, body: dict[str, object], pointer: str, code: str
) -> None:
    answer = desk.admin.post(ENDPOINTS, body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": pointer, "code": code}]


def test_only_who_manages_webhooks_may(officer: Caller, desk: Desk) -> None:
    assert officer.get(ENDPOINTS).status_code == 403
    assert officer.post(ENDPOINTS, {"url": URL, "events": ["request.*"]}).status_code == 403


def test_endpoints_are_listed_newest_first_by_pages(desk: Desk) -> None:
    made = []
    for number in range(3):
        made.append(desk.endpoint(f"{URL}/{number}")["id"])
        desk.clock.advance(seconds=1)
    page = desk.admin.get(ENDPOINTS, limit=2).json()
    rest = desk.admin.get(ENDPOINTS, limit=2, cursor=page["next"]).json()
    assert [each["id"] for each in [*page["items"], *rest["items"]]] == made[::-1]
    assert rest["next"] is None


def test_an_endpoint_is_changed_disabled_and_enabled(desk: Desk) -> None:
    made = desk.endpoint(URL)
    here = f"{ENDPOINTS}/{made['id']}"

    def change(**body: object) -> dict[str, object]:
        answer = desk.admin.client.patch(here, json=body, headers=desk.admin.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    assert change(url=f"{URL}/b", events=["job.*"])["url"] == f"{URL}/b"
    disabled = change(state="disabled")
    assert (disabled["state"], disabled["reason"]) == ("disabled", "asked")
    for path in ("tests", "replays"):
        answer = desk.admin.post(f"{here}/{path}", {"from_sequence": 1})
        assert (answer.status_code, answer.json()["code"]) == (409, "endpoint-disabled")
    assert change(state="active")["reason"] is None
    with desk.transaction() as session:
        told = session.scalars(
            select(AuditEvent.kind).where(AuditEvent.subject_id == made["id"]).order_by(AuditEvent.seq)
        ).all()
    assert told == ["endpoint.created", "endpoint.changed", "endpoint.disabled", "endpoint.enabled"]
    refused = desk.admin.client.patch(
        here, json={"url": "https://inner.example/"}, headers=desk.admin.headers
    )
    assert refused.status_code == 422


def test_a_removed_endpoint_is_gone_with_its_keys(desk: Desk) -> None:
    made = desk.endpoint(URL)
    here = f"{ENDPOINTS}/{made['id']}"
    assert desk.admin.delete(here).status_code == 204
    assert desk.admin.get(here).status_code == 404
    assert desk.admin.get(ENDPOINTS).json()["items"] == []
    assert desk.admin.post(f"{here}/tests").status_code == 404
    with desk.transaction() as session:
        assert session.scalars(select(WebhookSecret)).all() == []


def test_keys_are_changed_with_a_day_of_both(desk: Desk) -> None:
    made = desk.endpoint(URL)
    here = f"{ENDPOINTS}/{made['id']}"
    answer = desk.admin.post(f"{here}/secret-rotations")
    new = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert new["secret"] != made["secret"]
    assert new["public_keys"][1:] == made["public_keys"]
    assert desk.admin.post(f"{here}/secret-rotations").status_code == 201
    refused = desk.admin.post(f"{here}/secret-rotations")
    assert (refused.status_code, refused.json()["code"]) == (409, "rotating")
    desk.clock.advance(hours=24)
    # What has expired signs no more, and the housekeeping destroys it.
    assert len(desk.read(made)["public_keys"]) == 1
    with desk.transaction() as session:
        service.forget(session, now=desk.clock())
    with desk.transaction() as session:
        assert len(session.scalars(select(WebhookSecret)).all()) == 1


def test_nothing_of_a_secret_is_in_the_chain(desk: Desk) -> None:
    body = desk.endpoint(URL)
    with desk.transaction() as session:
        chain = b"".join(session.scalars(select(AuditEvent.body)).all())
    assert body["secret"].encode() not in chain
    assert b"127.0.0.1" not in chain
