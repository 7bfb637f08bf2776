"""How requests stand to their dates and where they are, over the API and in a terminal."""

from typing import Any
from uuid import UUID

import pytest

from app.cli import stats
from app.cli.client import chosen, out
from tests.app.erasure.asking import NOTICE, act, approve, ask
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB, EVE


def sla(caller: Caller) -> dict[str, Any]:
    found: dict[str, Any] = caller.get("/v1/stats/sla").json()
    return found


def funnel(caller: Caller) -> dict[str, dict[str, Any]]:
    return {each["state"]: each for each in caller.get("/v1/stats/funnel").json()["states"]}


def test_nothing_yet(officer: Caller) -> None:
    found = sla(officer)
    assert (found["open"], found["breaches"], found["due_next_at"], found["median_days"]) == (
        0,
        0,
        None,
        None,
    )
    assert all(
        (each["now"], each["left"], each["median_seconds"]) == (0, 0, None)
        for each in funnel(officer).values()
    )


def test_how_requests_stand_to_their_dates(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock
) -> None:
    early, late, _open = ask(portal, ADA), ask(portal, BOB), ask(portal, EVE)
    act(portal, ask(portal, EVE), "withdrawal")
    clock.advance(days=2)
    act(officer, early, "rejection", {"ground": "12.5", "notice": NOTICE})
    assert sla(officer) == {
        "open": 2, "overdue": 0, "due_in_7_days": 0, "due_next_at": "2026-12-22T00:00:00Z",
        "past_internal_target": 0, "answered": 1, "answered_late": 0, "breaches": 0,
        "median_days": 2.0, "p90_days": 2.0,
    }  # fmt: skip
    clock.advance(days=23)
    found = sla(officer)
    assert (found["due_in_7_days"], found["past_internal_target"], found["overdue"]) == (2, 2, 0)
    clock.advance(days=10)
    act(officer, late, "rejection", {"ground": "12.5", "notice": NOTICE})
    found = sla(officer)
    assert (found["open"], found["overdue"], found["due_in_7_days"]) == (1, 1, 0)
    assert (found["answered"], found["answered_late"], found["breaches"]) == (2, 1, 2)
    assert (found["median_days"], found["p90_days"]) == (pytest.approx(18.5), pytest.approx(31.7))


def test_how_long_requests_stay_where(
    portal: Caller, officer: Caller, callers: Callers, model: UUID, clock: StillClock
) -> None:
    for hours in (1, 3, 11):
        receipt = ask(portal, BOB)
        clock.advance(hours=hours)
        approve(officer, receipt)
    ask(portal, ADA)
    found = funnel(officer)
    assert list(found)[:4] == ["received", "identity_pending", "triage", "awaiting_approval"]
    waiting = found["awaiting_approval"]
    assert (waiting["now"], waiting["left"]) == (1, 3)
    assert (waiting["median_seconds"], waiting["p90_seconds"]) == (3 * 3600, pytest.approx(9.4 * 3600))
    assert (found["scheduled"]["now"], found["scheduled"]["left"]) == (3, 0)
    assert (found["received"]["left"], found["received"]["median_seconds"]) == (4, 0)


def test_counts_are_for_whoever_may_read_requests(callers: Callers, officer: Caller) -> None:
    nobody = callers("nobody", scopes={"certificates:read"})
    for path in ("/v1/stats/sla", "/v1/stats/funnel"):
        assert nobody.get(path).status_code == 403
        assert "er_" not in officer.get(path).text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (59.0, "59.0 s"),
        (90.0, "1.5 min"),
        (5400.0, "1.5 h"),
        (216_000.0, "2.5 d"),
    ],
)
def test_a_stay_as_one_says_it(seconds: float | None, said: str) -> None:
    assert stats._stay(seconds) == said


def test_the_table_says_what_the_api_says(
    portal: Caller, officer: Caller, model: UUID, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Called:
        def __init__(self, account: str) -> None:
            self.account = account

        def get(self, path: str) -> Any:
            return officer.get(path).json()

    ask(portal, BOB)
    clock.advance(days=40)
    monkeypatch.setattr(stats, "Api", Called)
    monkeypatch.setattr(chosen, "as_json", False)
    with out.capture() as said:
        stats.stats()
    lines = [line.split() for line in said.get().splitlines()]
    assert ["overdue", "1"] in lines
    assert ["awaiting_approval", "1", "-", "-", "-"] in lines
    monkeypatch.setattr(chosen, "as_json", True)
    with out.capture() as said:
        stats.stats()
    assert '"overdue": 1' in said.get()
