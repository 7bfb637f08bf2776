"""Deliveries on a real receiver: signed, in order, at least once, again when they fail, and never lost."""

import json
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from app.audit import service as audit
from app.clock import system_clock
from app.http import outbound
from app.http.outbound import Answer
from app.storage.database import Transaction
from app.tables import AuditEvent, WebhookDelivery, WebhookEndpoint, WebhookMessage
from app.webhooks import delivery, kinds, service, signature
from app.webhooks.repository import Webhooks
from tests.app.webhooks.conftest import ENDPOINTS, Desk
from tests.app.webhooks.receivers import Call, Receiver, receiver


def says(call: Call) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(call.body)
    return body


def seen(hook: Receiver) -> list[tuple[str, str]]:
    return [(says(call)["type"], says(call)["data"]["request"]) for call in hook.calls]


def test_what_happens_is_told_in_order_and_checked_by_the_public_library(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.*")
    desk.clock.instant = system_clock()  # the library compares with the present
    request = desk.request("T-1")
    while desk.work():
        pass
    assert seen(hook) == [
        ("request.received", request),
        ("request.moved", request),
        ("request.located", request),
        ("request.moved", request),
    ]
    assert [says(call)["data"].get("state") for call in hook.calls] == [None, "triage", None, "no_match"]
    for call in hook.calls:
        headers = dict(call.headers)
        assert Webhook(made["secret"]).verify(call.body, headers) == json.loads(call.body)
        signature.check(
            headers["webhook-signature"],
            id=headers["webhook-id"],
            timestamp=int(headers["webhook-timestamp"]),
            body=call.body,
            now=int(desk.clock().timestamp()),
            public=signature.read_public(made["public_keys"][0]),
        )
        assert headers["content-type"] == "application/json"
    assert len({call.headers["webhook-id"] for call in hook.calls}) == 4
    assert {each["state"] for each in desk.deliveries(made)} == {"delivered"}
    assert desk.read(made)["waiting"] == 0
    assert desk.work() == 0


def test_nothing_personal_is_told(desk: Desk, hook: Receiver) -> None:
    desk.endpoint(hook.url, *(f"{family}.*" for family in kinds.FAMILIES))
    desk.request("canary-7f3a9c")
    while desk.work():
        pass
    assert hook.calls
    for call in hook.calls:
        whole = call.body.decode() + str(dict(call.headers)) + call.path
        assert "canary" not in whole
        assert "example.org" not in whole
        assert "pr_" not in whole


def test_an_endpoint_is_told_what_it_wants_and_what_follows_it(desk: Desk, hook: Receiver) -> None:
    desk.request("before")
    desk.endpoint(hook.url, "request.received")
    after = desk.request("after")
    while desk.work():
        pass
    assert seen(hook) == [("request.received", after)]


def test_a_failed_delivery_is_tried_again_later_under_the_same_id(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    hook.answers(503)
    desk.request("T-1")
    desk.work()
    [told] = desk.deliveries(made)
    assert (told["state"], told["attempts"], told["status"]) == ("pending", 1, 503)
    assert desk.work() == 0, "not before its time"
    desk.clock.advance(seconds=6)
    desk.work()
    hook.answers(200)
    desk.clock.advance(minutes=6)
    assert desk.work() == 1
    ids = {call.headers["webhook-id"] for call in hook.calls}
    assert len(hook.calls) == 3
    assert ids == {told["message"]}
    assert len({call.body for call in hook.calls}) == 1
    # The timestamp is the attempt's, or a receiver would refuse a retry as too old.
    assert len({call.headers["webhook-timestamp"] for call in hook.calls}) == 3
    full = desk.admin.get(f"{ENDPOINTS}/{made['id']}/deliveries/{told['id']}").json()
    assert (full["state"], [each["status"] for each in full["tried"]]) == ("delivered", [503, 503, 200])
    assert full["body"].encode() == hook.calls[0].body
    assert desk.read(made)["failing_since"] is None


def test_ten_attempts_then_it_is_given_up_and_said_so(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    hook.answers(500)
    desk.request("T-1")
    hours = 0.0
    for attempt in range(1, outbound.ATTEMPTS_MAX + 1):
        assert desk.work() == 1, attempt
        if attempt < outbound.ATTEMPTS_MAX:
            wait = outbound.RETRY_AFTER[attempt - 1] * 1.1
            desk.clock.advance(seconds=wait.total_seconds())
            hours += wait / timedelta(hours=1)
    assert 75 < hours < 90
    [told] = desk.deliveries(made)
    assert (told["state"], told["attempts"], told["next_at"]) == ("failed", 10, None)
    assert desk.work() == 0
    with desk.transaction() as session:
        body = json.loads(
            session.scalars(
                select(AuditEvent.body).where(AuditEvent.kind == "endpoint.delivery_failed")
            ).one()
        )
    assert (body["message_id"], body["attempts"], body["status"]) == (told["message"], 10, 500)


def test_an_endpoint_that_is_gone_is_disabled_at_once(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.*")
    hook.answers(410)
    desk.request("T-1")
    desk.work()
    found = desk.read(made)
    assert (found["state"], found["reason"], found["waiting"]) == ("disabled", "gone", 0)
    assert len(hook.calls) == 1
    desk.clock.advance(days=2)
    desk.request("T-2")
    assert desk.work() == 0
    assert [each["state"] for each in desk.deliveries(made)].count("stopped") == 3


def test_five_days_of_failures_disable(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    hook.answers(500)
    for day in range(6):
        desk.request(f"T-{day}")
        desk.work()
        assert desk.read(made)["state"] == ("active" if day < 5 else "disabled"), day
        desk.clock.advance(days=1)
    assert desk.read(made)["reason"] == "failing"


def test_one_success_in_five_days_keeps_an_endpoint(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    for day in range(8):
        hook.answers(200 if day == 4 else 500)
        desk.request(f"T-{day}")
        desk.work()
        desk.clock.advance(days=1)
    assert desk.read(made)["state"] == "active"


def test_a_receiver_that_asks_for_patience_gets_it(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    hook.answers(429, Retry_After="3600")
    desk.request("T-1")
    desk.work()
    desk.clock.advance(minutes=59)
    assert desk.work() == 0
    desk.clock.advance(minutes=1)
    assert desk.work() == 1
    assert desk.deliveries(made)[0]["attempts"] == 2


def test_one_subjects_events_wait_for_each_other_and_for_nobody_else(desk: Desk, hook: Receiver) -> None:
    desk.endpoint(hook.url, "request.*")
    first = desk.request("T-1")

    def stubborn(call: Call) -> tuple[int, Mapping[str, str]]:
        return (500 if says(call)["data"]["request"] == first else 204), {}

    hook.answer = stubborn
    desk.work()
    second = desk.request("T-2")
    while desk.work():
        pass
    assert [each for each in seen(hook) if each[1] == first] == [("request.received", first)]
    assert len([each for each in seen(hook) if each[1] == second]) == 4
    hook.answers(204)
    desk.clock.advance(minutes=1)
    while desk.work():
        pass
    told = [each[0] for each in seen(hook) if each[1] == first]
    assert told == [
        "request.received",
        "request.received",
        "request.moved",
        "request.located",
        "request.moved",
    ]


def test_who_does_not_answer_keeps_few_threads_waiting(desk: Desk, hook: Receiver) -> None:
    """A claim takes one delivery of an endpoint that fails, however many are due."""
    desk.endpoint(hook.url, "request.received")
    hook.answers(500)
    desk.request("T-0")
    desk.work()
    for number in range(1, 6):
        desk.request(f"T-{number}")
    calls = len(hook.calls)
    with desk.transaction() as session:
        service.tell(session, at=desk.clock())
    with capture_logs():
        assert delivery.deliver(desk.sender) == 1
    assert len(hook.calls) == calls + 1


# At least once ---------------------------------------------------------------------------------------


def test_a_message_of_a_sender_that_died_is_sent_again_under_its_id(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    desk.request("T-1")
    with desk.transaction() as session:
        service.tell(session, at=desk.clock())
    with desk.transaction() as session:
        [died] = Webhooks(session).claim(at=desk.clock(), until=desk.clock() + delivery.CLAIM, limit=9)
    assert desk.work() == 0, "it is claimed"
    desk.clock.advance(seconds=61)
    assert desk.work() == 1
    assert [call.headers["webhook-id"] for call in hook.calls] == [desk.deliveries(made)[0]["message"]]
    # The dead one's word comes late, and undoes nothing.
    with desk.transaction() as session:
        service.settle(session, died, Answer(status=500), at=desk.clock())
    assert desk.deliveries(made)[0]["state"] == "delivered"


def test_two_workers_share_the_work(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    for number in range(6):
        desk.request(f"T-{number}")
    with capture_logs():
        workers = [threading.Thread(target=delivery.run, args=(desk.sender,)) for _ in range(4)]
        for each in workers:
            each.start()
        for each in workers:
            each.join(30)
        while delivery.run(desk.sender):
            pass
    assert len(hook.calls) == 6
    assert {each["attempts"] for each in desk.deliveries(made)} == {1}


def test_telling_is_atomic_with_the_place_in_the_sequence(
    desk: Desk, hook: Receiver, transaction: Transaction
) -> None:
    class Killed(Exception):  # noqa: N818  it is named for what it stands for
        pass

    desk.endpoint(hook.url, "request.*")
    desk.request("T-1")

    def tell_and_be_killed() -> None:
        with transaction() as session:
            service.tell(session, at=desk.clock())
            raise Killed

    with pytest.raises(Killed):
        tell_and_be_killed()
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(WebhookMessage)) == 0
        service.tell(session, at=desk.clock())
    with transaction() as session:
        assert service.tell(session, at=desk.clock()) == 0
        assert session.scalar(select(func.count()).select_from(WebhookMessage)) == 4


def test_a_long_sequence_is_read_in_batches(
    desk: Desk, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BATCH_EVENTS", 3)
    made = desk.endpoint(hook.url, "request.*")
    for number in range(4):
        desk.request(f"T-{number}")
    while desk.work():
        pass
    with desk.transaction() as session:
        events = session.scalar(
            select(func.count()).select_from(AuditEvent).where(AuditEvent.kind.in_(kinds.KINDS))
        )
    assert len(desk.deliveries(made, limit=100)) == events == 16


def test_without_an_endpoint_the_reader_skips_ahead(desk: Desk, transaction: Transaction) -> None:
    for number in range(3):
        desk.request(f"T-{number}")
    with transaction() as session:
        assert service.tell(session, at=desk.clock()) == audit.last(session)


# Again, tests, and what is asked for -------------------------------------------------------------------


def test_a_test_is_sent_and_its_outcome_shown(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "certificate.*")
    answer = desk.admin.post(f"{ENDPOINTS}/{made['id']}/tests")
    assert answer.status_code == 202
    assert desk.work() == 1
    assert says(hook.calls[0])["type"] == "webhook.test"
    assert says(hook.calls[0])["data"] == {}
    full = desk.admin.get(answer.headers["location"]).json()
    assert (full["state"], full["sequence"], full["tried"][0]["status"]) == ("delivered", None, 204)


def test_a_delivery_is_repeated_on_demand(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    desk.request("T-1")
    desk.work()
    [told] = desk.deliveries(made)
    here = f"{ENDPOINTS}/{made['id']}/deliveries/{told['id']}"
    again = desk.admin.post(f"{here}/redelivery")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    assert desk.admin.post(f"{here}/redelivery").status_code == 409, "it is under way"
    desk.work()
    assert [call.headers["webhook-id"] for call in hook.calls] == [told["message"]] * 2
    assert len(desk.admin.get(here).json()["tried"]) == 2


def test_a_range_is_replayed_also_what_was_missed(desk: Desk, hook: Receiver) -> None:
    first = desk.request("before")
    made = desk.endpoint(hook.url, "request.received")
    second = desk.request("after")
    while desk.work():
        pass
    assert seen(hook) == [("request.received", second)]
    here = f"{ENDPOINTS}/{made['id']}/replays"
    answer = desk.admin.post(here, {"from_sequence": 1})
    assert (answer.status_code, answer.json()) == (202, {"messages": 2})
    while desk.work():
        pass
    # Messages of one instant have no order among them; each keeps its id, however often it is told.
    assert sorted(seen(hook)[1:]) == sorted([("request.received", first), ("request.received", second)])
    again = {call.headers["webhook-id"] for call in hook.calls[1:]}
    assert len(again) == 2
    assert hook.calls[0].headers["webhook-id"] in again
    assert desk.admin.post(here, {"from_sequence": 9, "to_sequence": 8}).status_code == 422


def test_a_replay_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "REPLAYED_MAX", 5)
    made = desk.endpoint("http://127.0.0.1:9/")
    for number in range(3):
        desk.request(f"T-{number}")
    answer = desk.admin.post(f"{ENDPOINTS}/{made['id']}/replays", {"from_sequence": 1})
    assert answer.json()["errors"] == [{"pointer": "/to_sequence", "code": "range-too-long"}]


def test_what_is_disabled_hears_nothing_and_begins_anew(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    here, headers = f"{ENDPOINTS}/{made['id']}", desk.admin.headers
    desk.request("under-way")
    with desk.transaction() as session:
        service.tell(session, at=desk.clock())
    desk.admin.client.patch(here, json={"state": "disabled"}, headers=headers)
    desk.request("meanwhile")
    assert desk.work() == 0
    desk.admin.client.patch(here, json={"state": "active"}, headers=headers)
    after = desk.request("after")
    while desk.work():
        pass
    assert seen(hook) == [("request.received", after)]
    assert [each["state"] for each in desk.deliveries(made, state="stopped")] == ["stopped"]


def test_each_endpoint_has_its_own_keys_and_its_own_fate(desk: Desk, hook: Receiver) -> None:
    desk.clock.instant = system_clock()
    with receiver() as other:
        one, two = desk.endpoint(hook.url, "request.received"), desk.endpoint(other.url, "request.received")
        hook.answers(500)
        desk.request("T-1")
        desk.work()
        assert desk.deliveries(one)[0]["state"] == "pending"
        assert desk.deliveries(two)[0]["state"] == "delivered"
        [call] = other.calls
        assert call.headers["webhook-id"] == hook.calls[0].headers["webhook-id"]
        Webhook(two["secret"]).verify(call.body, dict(call.headers))
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(one["secret"]).verify(call.body, dict(call.headers))


def test_a_month_later_deliveries_are_forgotten(desk: Desk, hook: Receiver) -> None:
    desk.endpoint(hook.url, "request.received")
    desk.request("T-1")
    desk.work()
    desk.clock.advance(days=29)
    with desk.transaction() as session:
        assert service.forget(session, now=desk.clock()) == 0
    desk.clock.advance(days=2)
    with desk.transaction() as session:
        assert service.forget(session, now=desk.clock()) == 1
    with desk.transaction() as session:
        assert session.scalar(select(func.count()).select_from(WebhookMessage)) == 0
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 0
        assert session.scalar(select(func.count()).select_from(WebhookEndpoint)) == 1


def test_a_lost_key_is_seen_and_not_sent_unsigned(desk: Desk, hook: Receiver) -> None:
    made = desk.endpoint(hook.url, "request.received")
    desk.request("T-1")
    lost = delivery.Sender(
        transaction=desk.transaction, seal=bytes(32), reach=desk.sender.reach, clock=desk.clock
    )
    with capture_logs() as lines:
        delivery.run(lost)
    assert hook.calls == []
    assert desk.deliveries(made)[0]["error"] == "no-key"
    assert [line["code"] for line in lines] == ["no-key"]
    assert hook.url not in str(lines)
