"""The worker's part in a one-time code: a bell with an id, a process that sends, and nothing left to ring."""

import os

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from app import queue
from app.config import Settings
from app.queue import Stage
from app.storage.database import Transaction
from app.tables import IdentityChallenge
from tests.app.erasure.asking import ask, shown
from tests.fixtures.api import Caller
from tests.fixtures.post import PostOffice
from tests.workers.worlds import world
from workers import housekeeping
from workers.supervision import Ended, Supervisor


@pytest.fixture
def told(settings: Settings, office: PostOffice, app: FastAPI) -> Settings:
    """Return the settings of a worker that has a courier; the API has made the keys."""
    assert app.state.settings is settings
    found: Settings = settings.model_copy(
        update={"smtp_url": f"smtp://127.0.0.1:{office.port}", "smtp_from": "privacy@lethe.example"}
    )
    return found


def test_the_sweeper_finds_what_no_bell_told(
    told: Settings, portal: Caller, transaction: Transaction
) -> None:
    ask(portal, identity="doubted")
    with transaction() as session:
        assert queue.heard(session, Stage.CHALLENGE, session.scalars(select(IdentityChallenge.id)).one())
    [(stage, found)] = housekeeping.due(world(told, transaction))
    with transaction() as session:
        assert (stage, [found]) == (Stage.CHALLENGE, session.scalars(select(IdentityChallenge.id)).all())


@pytest.mark.slow
def test_a_bell_has_a_code_sent(
    told: Settings,
    portal: Caller,
    officer: Caller,
    office: PostOffice,
    transaction: Transaction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("home", "database_url", "smtp_url", "smtp_from"):
        monkeypatch.setitem(os.environ, f"LETHE_{name.upper()}", str(getattr(told, name)))
    first, second = ask(portal, identity="doubted"), ask(portal, identity="doubted")
    with transaction() as session:
        ringing = session.scalars(select(IdentityChallenge.id).order_by(IdentityChallenge.asked_at)).all()
    supervisor = Supervisor(world(told, transaction))
    assert supervisor.answer(Stage.CHALLENGE, ringing[0], bell=True) is Ended.DONE
    assert len(office.codes) == 2, "who is at it sends whatever is due"
    assert supervisor.answer(Stage.CHALLENGE, ringing[1], bell=True) is Ended.ANSWERED
    for receipt in (first, second):
        assert shown(officer, receipt)["attention"] is None
