"""Roles: what each is made of, and what no role may be."""

from app.auth.scopes import ROLES, Scope, of_roles


def test_the_roles_are_those_of_the_office() -> None:
    assert set(ROLES) == {"intake", "viewer", "privacy_officer", "auditor", "ml_engineer", "admin"}
    assert of_roles(ROLES) == frozenset(Scope), "each scope is somebody's"


def test_one_role_alone_sees_whose_request_it_is() -> None:
    assert [name for name, scopes in ROLES.items() if Scope.REQUESTS_READ_PII in scopes] == [
        "privacy_officer"
    ]


def test_who_hands_out_keys_approves_nothing() -> None:
    both = {Scope.KEYS_MANAGE, Scope.REQUESTS_REVIEW}
    assert not any(scopes >= both for scopes in ROLES.values())
    assert [name for name, scopes in ROLES.items() if Scope.KEYS_MANAGE in scopes] == ["admin"]


def test_who_only_looks_changes_nothing() -> None:
    for role in ("viewer", "auditor"):
        acts = {scope.partition(":")[2] for scope in ROLES[role]}
        assert acts <= {"read", "export"}, role


def test_intake_takes_in_and_decides_nothing() -> None:
    assert ROLES["intake"] == {Scope.REQUESTS_CREATE, Scope.REQUESTS_READ, Scope.REQUESTS_WITHDRAW}
