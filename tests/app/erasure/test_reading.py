"""What is read of requests: filters, search, records, certificates, examples; in constant queries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from app.erasure import bodies, schemas
from app.erasure.endpoints import lines
from app.http import ids
from tests.app.erasure.asking import REQUESTS, act, approve, ask, shown
from tests.fixtures.api import Caller
from tests.fixtures.world import ADA, BOB, World


def listed(caller: Caller, **params: Any) -> list[str]:
    return [each["id"] for each in caller.get(REQUESTS, **params).json()["items"]]


def listed_whole(caller: Caller) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(REQUESTS).json()["items"]
    return found


def test_filters(portal: Caller, officer: Caller, world: World, people: UUID, model: UUID) -> None:
    other = world.dataset("else", {BOB: ["x"]})
    ada, bob = ask(portal, ADA), ask(portal, BOB, external_ref="T-7")
    approve(officer, ada)
    assert listed(officer, dataset=ids.encode("ds", other)) == [bob["id"]]
    assert listed(officer, dataset=ids.encode("ds", people)) == [bob["id"], ada["id"]]
    assert listed(officer, model=ids.encode("mdl", model)) == [ada["id"]]
    assert listed(officer, external_ref="T-7") == [bob["id"]]
    assert listed(officer, state="scheduled") == [ada["id"]]
    assert listed(officer, on_hold=True) == listed(officer, attention_reason="sent_back") == []
    body = {"record_set_hash": bob["record_set_hash"], "decision": "send_back"}
    act(officer, bob, "approvals", body)
    assert listed(officer, attention_reason="sent_back") == listed(officer, attention=True) == [bob["id"]]


def test_a_list_reads_only_what_has_changed(
    app: FastAPI, portal: Caller, officer: Caller, world: World, model: UUID
) -> None:
    ada, bob = ask(portal, ADA), ask(portal, BOB)
    approve(officer, ada)
    first = listed_whole(officer)
    with counted() as said:
        assert listed_whole(officer) == first
    assert not any("erasure_requests.policy" in each for each in said), "nothing has changed"
    with world.transaction() as session:
        session.execute(text("UPDATE request_targets SET held = 'test'"))
    with counted() as said:
        [second, third] = listed_whole(officer)
    assert (second["id"], third["targets"][0]["held"]) == (bob["id"], "test"), "no version tells of that"
    assert any("erasure_requests.policy" in each for each in said)
    act(officer, bob, "approvals", {"record_set_hash": bob["record_set_hash"], "decision": "send_back"})
    assert [each["attention"] for each in listed_whole(officer)] == ["sent_back", None]
    app.state.lines.forget()
    assert listed_whole(officer)[0]["attention"] == "sent_back"


def test_what_was_read_before_the_database_was_another_one_is_not_kept(
    app: FastAPI, portal: Caller, officer: Caller, model: UUID
) -> None:
    ask(portal)

    def forget(*_given: object) -> None:
        app.state.lines.forget()

    event.listen(Engine, "after_cursor_execute", forget)
    assert len(listed(officer)) == 1
    event.remove(Engine, "after_cursor_execute", forget)
    assert len(app.state.lines) == 0
    assert len(listed(officer)) == len(app.state.lines) == 1


def test_of_lines_so_many_are_kept(
    portal: Caller, officer: Caller, model: UUID, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [ask(portal)["id"] for _ in range(4)]
    monkeypatch.setattr(lines, "LINES_MAX", 3)
    for _ in range(2):
        assert listed(officer) == asked[::-1]
        assert len(app.state.lines) == 3


@pytest.mark.parametrize("sort", ["id", "-due_at", "created_at; DROP TABLE"])
def test_only_what_we_know_is_sorted_by(officer: Caller, sort: str) -> None:
    answer = officer.get(REQUESTS, sort=sort)
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"pointer": "query:sort", "code": "enum"}])


def test_a_cursor_belongs_to_its_order(portal: Caller, officer: Caller, model: UUID) -> None:
    for _ in range(2):
        ask(portal)
    cursor = officer.get(REQUESTS, limit=1, sort="due_at").json()["next"]
    assert officer.get(REQUESTS, limit=1, cursor=cursor).status_code == 422


def test_a_persons_requests_are_found_and_only_that_somebody_asked_is_kept(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    ada, _ = ask(portal, ADA), ask(portal, BOB)
    found = officer.post(f"{REQUESTS}/search", {"subject": {"type": "email", "value": " Ada@Example.org"}})
    assert [each["id"] for each in found.json()] == [ada["id"]]
    nobody = officer.post(f"{REQUESTS}/search", {"subject": {"type": "email", "value": "no@example.org"}})
    assert nobody.json() == []
    events = officer.get("/v1/audit-events", limit=200)
    searched = [each["body"] for each in events.json() if each["kind"] == "requests.searched"]
    assert [(each["identifiers"], each["found"]) for each in searched] == [(1, 1), (1, 0)]
    assert "example" not in events.text
    refused = portal.post(f"{REQUESTS}/search", {"subject": {"type": "email", "value": ADA}})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")


def test_records_are_told_by_number(portal: Caller, officer: Caller, people: UUID, model: UUID) -> None:
    receipt = ask(portal)
    first, second = officer.get(f"{REQUESTS}/{receipt['id']}/records").json()
    assert first["dataset"] == ids.encode("ds", people)
    assert (first["action"], first["ground"], first["erased_at"]) == ("erase", None, None)
    after = int(first["id"].removeprefix("rec_"))
    assert officer.get(f"{REQUESTS}/{receipt['id']}/records", after=after).json() == [second]


def test_targets_and_certificates_have_places_of_their_own(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    receipt = approve(officer, ask(portal))
    here = f"{REQUESTS}/{receipt['id']}"
    assert officer.get(f"{here}/targets").json() == shown(officer, receipt)["targets"]
    assert officer.get(receipt["links"]["certificates"]).json() == []
    assert len(officer.get(receipt["links"]["records"]).json()) == 2


def test_a_longer_list_takes_no_more_queries(
    portal: Caller, officer: Caller, model: UUID, app: FastAPI
) -> None:
    """ethyca/fides#6951: a list that asked for each of its rows."""

    def queries(rows: int) -> int:
        with counted() as said:
            assert len(listed(officer, limit=rows)) == rows
        return len(said)

    for _ in range(6):
        approve(officer, ask(portal))
    assert queries(1) == queries(6)


@contextmanager
def counted() -> Iterator[list[str]]:
    said: list[str] = []

    def hear(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    yield said
    event.remove(Engine, "before_cursor_execute", hear)


def _with_examples() -> list[tuple[type[BaseModel], dict[str, Any]]]:
    found = [
        each
        for each in (vars(bodies) | vars(schemas)).values()
        if isinstance(each, type) and issubclass(each, BaseModel) and each is not BaseModel
    ]
    return [(each, example) for each in found for example in each.model_json_schema().get("examples", ())]


@pytest.mark.parametrize(("schema", "example"), _with_examples())
def test_every_example_is_one(schema: type[BaseModel], example: dict[str, Any]) -> None:
    assert schema.model_validate(example)


def test_every_body_that_comes_in_has_an_example(app: FastAPI) -> None:
    document = app.openapi()
    for path, operations in document["paths"].items():
        if not path.startswith(("/v1/erasure-requests", "/v1/holds")):
            continue
        for method, operation in operations.items():
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                # A body that may be left out is one of two: itself, or nothing.
                reference = schema.get("anyOf", [schema])[0]["$ref"]
                schema = document["components"]["schemas"][reference.rpartition("/")[2]]
                assert schema.get("examples"), (method, path)
