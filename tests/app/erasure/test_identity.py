"""One-time codes: who is sent one, what a guess costs, what a portal and the person themselves can do."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select, text

from app import failpoints
from app.config import Settings
from app.erasure.identity import service as identity
from app.erasure.identity.courier import courier
from app.erasure.identity.service import Sender
from app.http import ids
from app.storage.database import Session, Transaction
from app.storage.keyring import Keyring
from app.tables import ApiKey, IdentityChallenge, IdentityKnock, Outbox
from tests.app.erasure.asking import REQUESTS, act, ask, id_of, kinds, refused, shown
from tests.fixtures.api import Caller, Callers, Response, StillClock
from tests.fixtures.post import PostOffice
from tests.fixtures.world import ADA

CODES, PROOFS = "/identity/codes", "/identity/proofs"
SENDER = "privacy@lethe.example"


@pytest.fixture
def settings(settings: Settings, office: PostOffice) -> Settings:
    return settings.model_copy(update={"smtp_url": f"smtp://127.0.0.1:{office.port}", "smtp_from": SENDER})


@pytest.fixture
def sender(app: FastAPI, settings: Settings, keyring: Keyring, clock: StillClock) -> Sender:
    """Return the worker: it has the API's transactions, as those know the weekly keys."""
    return Sender(
        transaction=app.state.transaction,
        courier=courier(settings, clock=clock),
        secret=keyring.api,
        clock=clock,
    )


@pytest.fixture
def stranger(callers: Callers, transaction: Transaction) -> Caller:
    """Return a portal that does not know who asks."""
    found = callers("stranger", "intake", kind="machine")
    with transaction() as session:
        key = session.scalars(select(ApiKey).where(ApiKey.principal_id == found.principal_id)).one()
        key.vouches = False
    return found


@dataclass
class Subject:
    """A person with a mailbox and no key."""

    client: TestClient

    def ask(self, receipt: dict[str, Any]) -> Response:
        return self.client.post(CODES, json={"request": receipt["id"]})

    def prove(self, receipt: dict[str, Any], code: str) -> Response:
        return self.client.post(PROOFS, json={"request": receipt["id"], "code": code})


@pytest.fixture
def subject(client: TestClient) -> Subject:
    return Subject(client)


def other_than(code: str, nth: int = 1) -> str:
    return f"{(int(code) + nth) % 10**8:08}"


def code_of(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# From intake to triage


def test_who_is_not_vouched_for_is_sent_a_code_and_proves_it(
    stranger: Caller, subject: Subject, officer: Caller, sender: Sender, office: PostOffice, model: UUID
) -> None:
    receipt = ask(stranger, email=" Ada@Example.ORG")
    assert (receipt["state"], receipt["records_matched"]) == ("identity_pending", 0)
    assert receipt["due_on"] == "2026-12-21", "the deadline runs since the receipt"
    assert identity.deliver(sender) == 1
    [letter], [code] = office.letters, office.codes
    assert office.recipients == [[ADA]], "as it is searched for, not as it was spelled"
    assert (office.senders, letter["From"], letter["To"]) == ([SENDER], SENDER, ADA)
    assert letter["Auto-Submitted"] == "auto-generated"
    assert code not in str(letter["Subject"])
    body = letter.get_content()
    assert receipt["id"] in body
    assert "within 15 minutes" in body
    assert code_of(subject.prove(receipt, other_than(code))) == (403, "code-refused")
    assert subject.prove(receipt, code).json() == {"proven": True}
    found = shown(officer, receipt)
    assert (found["state"], found["records_matched"]) == ("awaiting_approval", 2)
    assert (found["identity_method"], found["attention"]) == ("one_time_code", None)
    assert code_of(subject.prove(receipt, code)) == (403, "code-refused"), "a code counts once"
    happened = kinds(officer, receipt)
    assert happened.count("request.identity_challenged") == 1
    assert happened.count("request.identity_refused") == 1
    assert "request.identity_confirmed" in happened


def test_a_portal_brings_the_code_of_its_own_requests_alone(
    stranger: Caller, callers: Callers, sender: Sender, office: PostOffice, officer: Caller, model: UUID
) -> None:
    receipt = ask(stranger)
    identity.deliver(sender)
    other = callers("another-portal", "intake", kind="machine")
    assert refused(other, receipt, "identity-proofs", {"code": office.codes[0]}) == (404, "not-found")
    assert refused(other, receipt, "identity-challenges") == (404, "not-found")
    assert refused(stranger, receipt, "identity-proofs", {"method": "document"}) == (403, "scope-missing")
    assert refused(stranger, receipt, "identity-proofs", {"code": other_than(office.codes[0])}) == (
        403,
        "code-refused",
    )
    proven = act(stranger, receipt, "identity-proofs", {"code": office.codes[0]})
    assert proven["state"] == "awaiting_approval"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": "12345678", "method": "document"},
        {"code": "1234567"},
        {"code": "123456789"},
        {"code": 12345678},
        {"code": "12345678", "evidence": "seen"},
    ],
)
def test_what_is_no_proof(officer: Caller, portal: Caller, model: UUID, body: dict[str, Any]) -> None:
    receipt = ask(portal, identity="doubted")
    assert refused(officer, receipt, "identity-proofs", body) == (422, "invalid")


def test_a_key_that_does_not_vouch_makes_none_that_does(
    callers: Callers, transaction: Transaction, model: UUID
) -> None:
    admin = callers("admin", "admin")
    wish = {"name": "kiosk", "scopes": ["requests:create"], "vouches": False}
    made = admin.post("/v1/api-keys", wish).json()
    assert made["vouches"] is False
    kiosk = Caller(admin.client, ids.decode("pr", made["principal"]), made["key"])
    assert ask(kiosk, identity="vouched")["state"] == "identity_pending"
    with transaction() as session:
        session.scalars(select(ApiKey).where(ApiKey.principal_id == admin.principal_id)).one().vouches = False
    assert admin.post("/v1/api-keys", wish | {"name": "k2", "vouches": True}).json()["vouches"] is False


def test_a_file_of_a_source_that_does_not_vouch_does_not_either(
    stranger: Caller, transaction: Transaction, model: UUID
) -> None:
    row = b'{"subject": {"type": "email", "value": "ada@example.org"}, "identity": "vouched"}\n'
    headers = stranger.headers | {"Idempotency-Key": "k", "Content-Type": "application/x-ndjson"}
    assert stranger.client.post("/v1/imports", content=row, headers=headers).status_code == 202
    with transaction() as session:
        assert session.scalars(text("SELECT vouched FROM import_rows")).all() == [False]


# Where no code helps


def test_without_a_courier_an_officer_is_asked(
    stranger: Caller, officer: Caller, sender: Sender, model: UUID
) -> None:
    receipt = ask(stranger)
    assert identity.deliver(replace(sender, courier=None)) == 0
    found = shown(officer, receipt)
    assert (found["state"], found["attention"]) == ("identity_pending", "no_courier")
    proven = act(officer, receipt, "identity-proofs", {"method": "document"})
    assert (proven["state"], shown(officer, receipt)["attention"]) == ("awaiting_approval", None)


@pytest.mark.parametrize(
    "named",
    [
        {"subject": [{"type": "email", "value": "mallory@evil.example"}, {"type": "email", "value": ADA}]},
        {"subject": [{"type": "email", "value": "m@evil.example"}, {"type": "customer_id", "value": "7"}]},
        {"subject": {"type": "phone", "value": "+4930123456"}},
        {"records": {"dataset": "people", "ids": ["ada-1"]}},
    ],
)
def test_a_mailbox_proves_nothing_but_itself(
    stranger: Caller, officer: Caller, sender: Sender, office: PostOffice, model: UUID, named: dict[str, Any]
) -> None:
    """Who names another's address or number beside a mailbox of their own is not sent a code for both."""
    answer = stranger.post(REQUESTS, named)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()
    assert identity.deliver(sender) == 0
    assert office.letters == []
    assert shown(officer, receipt)["attention"] == "identity_by_hand"


@pytest.mark.parametrize(
    "address", ["a@b.c, x@evil.example", "ada@example.org\r\nBcc: x@evil.example", "a b@c.d", "@@", "<a@b.c>"]
)
def test_an_address_that_is_none_gets_no_letter(
    stranger: Caller, officer: Caller, sender: Sender, office: PostOffice, model: UUID, address: str
) -> None:
    answer = stranger.post(REQUESTS, {"subject": {"type": "email", "value": address}})
    if answer.status_code == 422:
        return
    assert identity.deliver(sender) == 0
    assert office.letters == []
    assert shown(officer, answer.json())["attention"] == "code_undelivered"


def test_a_letter_that_is_refused_for_good_asks_for_an_officer(
    stranger: Caller, officer: Caller, sender: Sender, office: PostOffice, model: UUID
) -> None:
    office.refusal = f"550 5.1.1 <{ADA}> unknown"
    receipt = ask(stranger)
    assert identity.deliver(sender) == 0
    assert shown(officer, receipt)["attention"] == "code_undelivered"
    assert identity.deliver(sender) == 0


def test_a_server_that_is_away_is_tried_again_and_then_an_officer_is_asked(
    stranger: Caller, officer: Caller, sender: Sender, office: PostOffice, model: UUID, clock: StillClock
) -> None:
    office.refusal = "451 4.3.0 not now"
    receipt = ask(stranger)
    for again in identity.AGAIN_AFTER:
        assert identity.deliver(sender) == 0
        assert shown(officer, receipt)["attention"] is None
        clock.advance(seconds=again.total_seconds())
    office.refusal = None
    assert identity.deliver(sender) == 1
    assert len(office.codes) == 1
    office.refusal = "451 4.3.0 not now"
    second = ask(stranger, email="bob@example.org")
    for again in (*identity.AGAIN_AFTER, identity.HOUR):
        identity.deliver(sender)
        clock.advance(seconds=again.total_seconds())
    assert shown(officer, second)["attention"] == "code_undelivered"


def test_nothing_is_sent_for_what_has_ended_meanwhile(
    stranger: Caller, sender: Sender, office: PostOffice, model: UUID
) -> None:
    act(stranger, ask(stranger), "withdrawal")
    assert identity.deliver(sender) == 0
    assert office.letters == []


# Guesses


def test_codes_are_unpredictable(
    stranger: Caller, sender: Sender, office: PostOffice, model: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2023-48224: codes came from a generator whose next number can be told from the ones before."""
    import random  # noqa: PLC0415  it is what must not matter

    for round_ in range(2):
        random.seed(7)
        for each in range(6):
            ask(stranger, email=f"p{round_}{each}@example.org")
        assert identity.deliver(sender) == 6
    codes = office.codes
    assert len(set(codes)) == 12, "the same seed, other codes"
    assert all(len(code) == 8 for code in codes)
    drawn: list[int] = []

    def highest(below: int) -> int:
        drawn.append(below)
        return 7

    monkeypatch.setattr("secrets.randbelow", highest)
    ask(stranger, email="q@example.org")
    identity.deliver(sender)
    assert (drawn, office.codes[-1]) == ([10**8], "00000007"), "each of 10^8, the small ones too"


def test_six_guesses_at_once_count_six(
    app: FastAPI, stranger: Caller, sender: Sender, office: PostOffice, transaction: Transaction, model: UUID
) -> None:
    """CVE-2023-48224: guesses that came at once were counted as one, so that 10^n fitted into a limit of few."""
    receipt = ask(stranger)
    identity.deliver(sender)
    [code] = office.codes
    together = threading.Barrier(6)
    clients = [TestClient(app, client=(f"192.0.2.{each}", 50000)) for each in range(6)]

    def guess(nth: int) -> tuple[int, str]:
        together.wait()
        body = {"request": receipt["id"], "code": other_than(code, nth + 1)}
        return code_of(clients[nth].post(PROOFS, json=body))

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(guess, range(6))) == [(403, "code-refused")] * 6
    with transaction() as session:
        [challenge] = session.scalars(select(IdentityChallenge)).all()
        assert challenge.attempts == 5, "five were had, the sixth had none left"
    right = clients[0].post(PROOFS, json={"request": receipt["id"], "code": code})
    assert code_of(right) == (403, "code-refused"), "nor is the right one taken any more"


def test_of_right_codes_at_once_one_counts(
    app: FastAPI, stranger: Caller, officer: Caller, sender: Sender, office: PostOffice, model: UUID
) -> None:
    receipt = ask(stranger)
    identity.deliver(sender)
    body = {"request": receipt["id"], "code": office.codes[0]}
    clients = [TestClient(app, client=(f"192.0.2.{each}", 50000)) for each in range(4)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda each: each.post(PROOFS, json=body).status_code, clients))
    assert sorted(answers) == [200, 403, 403, 403]
    assert kinds(officer, receipt).count("request.identity_confirmed") == 1


def test_a_guess_is_counted_before_the_code_is_looked_at(
    stranger: Caller,
    sender: Sender,
    office: PostOffice,
    transaction: Transaction,
    model: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is killed, or hangs up, between the two has made the guess all the same."""
    receipt = ask(stranger)
    identity.deliver(sender)

    class Killed(BaseException):
        pass

    def reach(name: str) -> None:
        if name == "identity.spent":
            raise Killed

    monkeypatch.setattr(failpoints, "reach", reach)
    with pytest.raises(Killed):
        identity.knows(sender.transaction, sender.secret, id_of(receipt), office.codes[0], at=sender.clock())
    with transaction() as session:
        assert session.scalars(select(IdentityChallenge.attempts)).all() == [1]


def test_a_code_lasts_a_quarter_of_an_hour(
    stranger: Caller, subject: Subject, sender: Sender, office: PostOffice, model: UUID, clock: StillClock
) -> None:
    receipt = ask(stranger)
    identity.deliver(sender)
    clock.advance(minutes=15)
    assert code_of(subject.prove(receipt, office.codes[0])) == (403, "code-refused")


def test_a_code_is_of_one_request(
    stranger: Caller, subject: Subject, sender: Sender, office: PostOffice, model: UUID
) -> None:
    first, second = ask(stranger), ask(stranger)
    identity.deliver(sender)
    of = {
        letter.get_content().split("called ")[1][:29]: code
        for letter, code in zip(office.letters, office.codes, strict=True)
    }
    assert code_of(subject.prove(second, of[first["id"]])) == (403, "code-refused")
    assert subject.prove(first, of[first["id"]]).status_code == 200
    assert subject.prove(second, of[second["id"]]).status_code == 200


# Another code


def test_a_new_code_takes_the_place_of_the_old_once_it_is_drawn(
    stranger: Caller, subject: Subject, sender: Sender, office: PostOffice, model: UUID, clock: StillClock
) -> None:
    receipt = ask(stranger)
    identity.deliver(sender)
    clock.advance(minutes=1)
    assert act_202(stranger, receipt) == {"minutes": 15, "left": 1}
    assert subject.ask(receipt).status_code == 202
    assert code_of(subject.prove(receipt, other_than(office.codes[0]))) == (403, "code-refused")
    assert identity.deliver(sender) == 1, "of two that are asked for at once, one is sent"
    old, new = office.codes
    assert code_of(subject.prove(receipt, old)) == (403, "code-refused")
    assert subject.prove(receipt, new).status_code == 200


def act_202(caller: Caller, receipt: dict[str, Any]) -> Any:
    answer = caller.post(f"{REQUESTS}/{receipt['id']}/identity-challenges")
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_request_has_three_codes_an_hour(
    stranger: Caller,
    subject: Subject,
    officer: Caller,
    sender: Sender,
    office: PostOffice,
    model: UUID,
    clock: StillClock,
) -> None:
    receipt = ask(stranger)
    for left in (1, 0):
        identity.deliver(sender)
        clock.advance(minutes=10)
        assert act_202(officer, receipt)["left"] == left
    identity.deliver(sender)
    limited = stranger.post(f"{REQUESTS}/{receipt['id']}/identity-challenges")
    assert (limited.status_code, limited.json()["code"]) == (429, "rate-limited")
    assert limited.headers["retry-after"] == str(40 * 60)
    assert subject.ask(receipt).status_code == 202, "who has no key is not told"
    assert identity.deliver(sender) == 0
    assert len(office.letters) == 3
    clock.advance(minutes=40)
    assert act_202(stranger, receipt)["left"] == 0
    assert identity.deliver(sender) == 1


def test_the_same_is_answered_whether_or_not_there_is_such_a_request(
    stranger: Caller, portal: Caller, subject: Subject, sender: Sender, office: PostOffice, model: UUID
) -> None:
    pending, vouched = ask(stranger), ask(portal)
    unknown = {"id": ids.encode("er", stranger.principal_id)}
    asked = [subject.ask(each) for each in (pending, vouched, unknown)]
    assert {(each.status_code, each.text) for each in asked} == {(202, '{"minutes":15}')}
    identity.deliver(sender)
    tried = [subject.prove(each, other_than(office.codes[-1])).json() for each in (pending, vouched, unknown)]
    for each in tried:
        del each["request_id"]
    assert tried[0] == tried[1] == tried[2]
    assert tried[0]["code"] == "code-refused"


def test_an_address_has_twenty_calls_an_hour_and_each_counts(
    app: FastAPI, stranger: Caller, model: UUID, clock: StillClock, transaction: Transaction
) -> None:
    receipt = ask(stranger)
    here = [TestClient(app, client=("2001:db8:1:2::" + f"{each:x}", 50000)) for each in range(24)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda each: each.post(CODES, json={"request": receipt["id"]}).status_code, here)
        )
    assert (answers.count(202), answers.count(429)) == (20, 4), "a /64 is one customer, and none is missed"
    limited = here[0].post(PROOFS, json={"request": receipt["id"], "code": "00000000"})
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "3600")
    elsewhere = TestClient(app, client=("2001:db8:1:3::1", 50000))
    assert elsewhere.post(CODES, json={"request": receipt["id"]}).status_code == 202
    with transaction() as session:
        stored = "".join(session.scalars(text("SELECT identity_knocks::text FROM identity_knocks")).all())
        assert "2001" not in stored
    clock.advance(hours=1)
    assert here[0].post(CODES, json={"request": receipt["id"]}).status_code == 202


def test_a_count_that_is_away_refuses(
    app: FastAPI,
    engine: Engine,
    stranger: Caller,
    subject: Subject,
    sender: Sender,
    office: PostOffice,
    model: UUID,
) -> None:
    """Fail closed: where guesses cannot be counted there are none."""
    receipt = ask(stranger)
    identity.deliver(sender)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE identity_knocks RENAME TO away"))
    try:
        assert subject.prove(receipt, office.codes[0]).status_code == 500
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO identity_knocks"))
    assert subject.prove(receipt, office.codes[0]).status_code == 200


# Killed, twice, and what is kept


@pytest.mark.parametrize("where", ["identity.drawn", "identity.sent"])
def test_killed_around_the_letter_another_code_is_drawn_and_the_first_is_worth_nothing(
    stranger: Caller,
    subject: Subject,
    sender: Sender,
    office: PostOffice,
    clock: StillClock,
    model: UUID,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    class Killed(BaseException):
        pass

    def reach(name: str) -> None:
        if name == where:
            raise Killed

    receipt = ask(stranger)
    with monkeypatch.context() as patched:
        patched.setattr(failpoints, "reach", reach)
        with pytest.raises(Killed):
            identity.deliver(sender)
    assert identity.deliver(sender) == 0, "whoever died may still be at it"
    clock.advance(seconds=identity.CLAIM.total_seconds())
    with sender.transaction() as session:
        assert len(identity.due(session, now=clock())) == 1, "the sweeper finds it, the bell is gone"
    assert identity.deliver(sender) == 1
    *earlier, last = office.codes
    assert len(earlier) == (where == "identity.sent"), "sent twice is harmless"
    for old in earlier:
        assert code_of(subject.prove(receipt, old)) == (403, "code-refused")
    assert subject.prove(receipt, last).status_code == 200


def test_two_workers_send_one_letter_each_to_another(
    stranger: Caller, sender: Sender, office: PostOffice, model: UUID
) -> None:
    for each in range(12):
        ask(stranger, email=f"p{each}@example.org")
    with ThreadPoolExecutor(2) as threads:
        sent = list(threads.map(lambda _: identity.deliver(sender), range(2)))
    assert sum(sent) == 12
    assert len({tuple(each) for each in office.recipients}) == 12


def test_neither_code_nor_address_is_anywhere_but_in_the_letter(
    stranger: Caller,
    subject: Subject,
    sender: Sender,
    office: PostOffice,
    transaction: Transaction,
    model: UUID,
    capfd: pytest.CaptureFixture[str],
) -> None:
    receipt = ask(stranger)
    with transaction() as session:
        [bell] = session.scalars(select(Outbox).where(Outbox.stage == "challenge")).all()
        assert bell.target_id == session.scalars(select(IdentityChallenge.id)).one(), "ids, and nothing else"
    identity.deliver(sender)
    [code] = office.codes
    office.refusal = f"550 <{ADA}> unknown"
    ask(stranger)
    identity.deliver(sender)
    answers = [subject.prove(receipt, other_than(code)).text, subject.prove(receipt, code).text]
    said = "".join([*answers, *capfd.readouterr()])
    with transaction() as session:
        for table in ("audit_events", "outbox", "identity_challenges", "identity_knocks", "idempotency_keys"):
            rows = session.execute(text(f"SELECT {table}::text FROM {table}")).scalars().all()
            said += "".join(map(str, rows))
        bodies = session.execute(text("SELECT convert_from(body, 'UTF8') FROM audit_events")).scalars()
        said += "".join(bodies)
        assert session.scalars(select(Outbox).where(Outbox.stage == "challenge")).all() == []
    assert code not in said
    assert code.encode().hex() not in said
    assert "ada@" not in said.lower()


def test_knocks_are_forgotten_after_an_hour_and_codes_after_a_day(
    stranger: Caller,
    subject: Subject,
    sender: Sender,
    transaction: Transaction,
    clock: StillClock,
    model: UUID,
) -> None:
    receipt = ask(stranger)
    subject.ask(receipt)
    identity.deliver(sender)
    clock.advance(hours=1)
    with transaction() as session:
        assert identity.forget(session, now=clock()) == 1
        assert session.scalars(select(IdentityKnock)).all() == []
    clock.advance(hours=23)
    with transaction() as session:
        assert identity.forget(session, now=clock()) == 2
        assert session.scalars(select(IdentityChallenge)).all() == []


# The last guard is the database's


def test_of_a_request_one_code_counts_whatever_a_program_believes(
    stranger: Caller, sender: Sender, session: Session, transaction: Transaction, model: UUID
) -> None:
    receipt = ask(stranger)
    identity.deliver(sender)
    [first] = session.scalars(select(IdentityChallenge)).all()
    with pytest.raises(Exception, match="one_open_code"), transaction() as other:
        other.add(
            IdentityChallenge(
                request_id=id_of(receipt),
                asked_at=first.asked_at,
                next_try_at=first.asked_at,
                code_mac=b"x",
                expires_at=first.expires_at,
            )
        )
