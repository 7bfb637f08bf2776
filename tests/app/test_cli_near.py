"""Near duplicates on the command line: what is said of a request that waits for a decision."""

from typing import Any

import pytest

from app.cli import erasing


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, None),
        ({"indexes": {"subjects": "searched", "near_duplicates": "searched"}, "proposals_open": 0}, None),
        ({"indexes": {"near_duplicates": "searching"}}, "searching"),
        ({"indexes": {"near_duplicates": "searched"}, "proposals_open": 3}, "3 to decide on"),
        (
            {"indexes": {"near_duplicates": "unavailable"}, "records_near": 1, "proposals_open": 2},
            "1 adopted, 2 to decide on, unavailable",
        ),
    ],
)
def test_what_is_said_of_near_duplicates(body: dict[str, Any], said: str | None) -> None:
    assert erasing._near(body) == said


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
