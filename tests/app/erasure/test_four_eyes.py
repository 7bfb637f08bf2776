"""Nobody approves their own, no machine, no admin: at the door, in the service, and in the database."""

from uuid import UUID

import pytest

from app.auth.scopes import ROLES, Scope
from app.storage.database import DatabaseError, Transaction
from app.storage.keyring import Keyring
from app.tables import Approval, Principal, RequestRecord
from tests.app.erasure.asking import act, approve, ask, id_of, kinds, refused, shown
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import World

KEYS = "/v1/api-keys"


@pytest.fixture
def admin(callers: Callers) -> Caller:
    return callers("admin", "admin")


def body(receipt: dict[str, str]) -> dict[str, str]:
    return {"record_set_hash": receipt["record_set_hash"]}


def test_an_admin_cannot_approve_nor_reject(portal: Caller, admin: Caller, model: UUID) -> None:
    receipt = ask(portal)
    for what in ("approvals", "rejection", "exemptions", "release"):
        assert refused(admin, receipt, what, body(receipt)) == (403, "scope-missing")


def test_an_admin_cannot_make_a_key_that_may(admin: Caller, officer: Caller) -> None:
    refusal = admin.post(KEYS, {"name": "sock-puppet", "kind": "person", "scopes": ["requests:review"]})
    assert (refusal.status_code, refusal.json()["code"]) == (403, "scope-missing")


def test_nobody_gets_both_rights_by_two_keys(callers: Callers, officer: Caller, model: UUID) -> None:
    everybody = callers("everybody", scopes=list(Scope))
    for scopes in (["keys:manage", "requests:review"], ["keys:manage"]):
        principal = _public(officer)
        refusal = everybody.post(KEYS, {"principal": principal, "scopes": scopes})
        assert (refusal.status_code, refusal.json()["code"]) == (409, "separation-of-duties")


def test_who_hands_out_keys_by_another_key_does_not_approve(
    portal: Caller,
    callers: Callers,
    model: UUID,
    transaction: Transaction,
    keyring: Keyring,
    clock: StillClock,
) -> None:
    from app.auth import service as auth  # noqa: PLC0415  only here

    both = callers("both", "privacy_officer")
    with transaction() as session:
        key, _ = auth.create_key(
            session,
            keyring.api,
            principal_id=both.principal_id,
            scopes={Scope.KEYS_MANAGE},
            at=clock(),
        )
    receipt = ask(portal)
    assert refused(both, receipt, "approvals", body(receipt)) == (403, "admin-cannot-approve")
    with transaction() as session:
        auth.revoke_key(session, key.id, at=clock())
    assert approve(both, receipt)["state"] == "scheduled"


def test_no_role_both_approves_and_hands_out_keys() -> None:
    for role, scopes in ROLES.items():
        assert not {Scope.KEYS_MANAGE, Scope.REQUESTS_REVIEW} <= scopes, role


def test_a_request_is_sent_back_and_its_approvals_are_void(
    portal: Caller, officer: Caller, callers: Callers, model: UUID
) -> None:
    receipt = approve(officer, ask(portal))
    colleague = callers("colleague", "privacy_officer")
    back = act(colleague, receipt, "approvals", body(receipt) | {"decision": "send_back"})
    assert back["state"] == "triage"
    found = shown(officer, receipt)
    assert (found["attention"], found["approvals"], found["targets"]) == ("sent_back", 0, [])
    assert "request.sent_back" in kinds(officer, receipt)
    again = act(officer, receipt, "resolutions")
    assert (again["state"], shown(officer, receipt)["attention"]) == ("awaiting_approval", None)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("submitter", "second person"),
        ("hash", "second person"),
        ("machine", "a person''s|a person's"),
        ("proposer", "own exemption"),
        ("admin", "hands out keys"),
    ],
)
def test_the_database_itself_refuses(
    portal: Caller,
    officer: Caller,
    admin: Caller,
    callers: Callers,
    world: World,
    model: UUID,
    transaction: Transaction,
    wrong: str,
    said: str,
) -> None:
    """A check in a service is one forgotten endpoint away from absent."""
    receipt = ask(officer)
    robot = callers("robot", "privacy_officer", kind="machine")
    approver = {
        "submitter": officer.principal_id,
        "machine": robot.principal_id,
        "admin": admin.principal_id,
    }.get(wrong, world.owner)
    if wrong == "proposer":
        with transaction() as session:
            named = session.query(RequestRecord).first()
            assert named is not None
            named.exempt, named.exempted_by = "17.3.b", world.owner
    approval = Approval(
        request_id=id_of(receipt),
        approver_id=approver,
        record_set_hash=bytes(32) if wrong == "hash" else bytes.fromhex(receipt["record_set_hash"]),
    )
    with pytest.raises(DatabaseError, match=said), transaction() as session:
        session.add(approval)


def test_the_database_lets_a_second_person(
    officer: Caller, world: World, model: UUID, transaction: Transaction
) -> None:
    receipt = ask(officer)
    with transaction() as session:
        assert session.get_one(Principal, world.owner).kind == "person"
        session.add(
            Approval(
                request_id=id_of(receipt),
                approver_id=world.owner,
                record_set_hash=bytes.fromhex(receipt["record_set_hash"]),
            )
        )


def _public(caller: Caller) -> str:
    from app.http import ids  # noqa: PLC0415  only here

    return ids.encode("pr", caller.principal_id)
