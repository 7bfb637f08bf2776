"""Near duplicates on the command line: what is said of a request that waits for a decision."""

from typing import Any

import pytest

from app.cli import client, erasing


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, None),
        ({"indexes": {"subjects": "searched", "near_duplicates": "searched"}, "proposals_open": 0}, None),
        ({"indexes": {"near_duplicates": "searching"}}, "searching"),
        ({"indexes": {"near_duplicates": "searched"}, "proposals_open": 3}, None),
        (
            {"indexes": {"near_duplicates": "unavailable"}, "records_near": 1, "proposals_open": 2},
            "1 adopted, unavailable",
        ),
    ],
)
def test_what_is_said_of_near_duplicates(body: dict[str, Any], said: str | None) -> None:
    assert erasing._near(body) == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, None),
        ({"indexes": {"texts": "searched"}, "proposals_open": 3}, None),
        ({"indexes": {"texts": "hashed"}, "records_mentioning": 2}, "2 adopted, hashed"),
    ],
)
def test_what_is_said_of_texts(body: dict[str, Any], said: str | None) -> None:
    assert erasing._texts(body) == said


def test_a_list_stands_in_one_cell(capsys: pytest.CaptureFixture[str]) -> None:
    client.table(
        [{"id": "rec_1", "identifiers": ["email", "phone"], "mentions": None}],
        {"id": "record", "identifiers": "says", "mentions": "times"},
    )
    assert "email, phone" in capsys.readouterr().out


def test_one_kind_is_decided_on_at_a_time() -> None:
    with pytest.raises(client.Stopped, match="one after the other"):
        erasing.resolve_request("er_1", near="adopt", texts="adopt")


@pytest.mark.parametrize(
    ("near", "record", "sent"),
    [
        (None, None, None),
        ("decline", None, {"near_duplicates": "decline"}),
        ("adopt", ["rec_7"], {"near_duplicates": "adopt", "records": ["rec_7"]}),
    ],
)
def test_what_is_sent(
    monkeypatch: pytest.MonkeyPatch, near: str | None, record: list[str] | None, sent: object
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(erasing, "_act", lambda *given: calls.append(given))
    erasing.resolve_request("er_1", near=near, record=record)
    assert calls == [("officer", "er_1", "resolutions", *([] if sent is None else [sent]))]


def test_what_is_sent_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(erasing, "_act", lambda *given: calls.append(given))
    erasing.resolve_request("er_1", texts="adopt", record=["rec_7"])
    assert calls == [("officer", "er_1", "resolutions", {"texts": "adopt", "records": ["rec_7"]})]
