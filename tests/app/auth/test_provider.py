"""Access tokens of an identity provider: which open something, for whom, and what they never do."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app.auth.provider import KEYS_STALE_MAX, REFETCH_AFTER, REFETCH_LEAST, Provider
from app.config import Settings
from app.storage.database import Transaction
from app.tables import Principal
from tests.fixtures import provider as local
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.provider import KEYS, LocalProvider, Private

REQUESTS = "/v1/erasure-requests"
AUDIENCE = "https://lethe.example"


@pytest.fixture
def settings(settings: Settings, idp: LocalProvider) -> Settings:
    return settings.model_copy(update={"oidc_issuer": idp.issuer, "oidc_audience": AUDIENCE})


@pytest.fixture
def reader(settings: Settings, clock: StillClock) -> Provider:
    found = Provider.of(settings, clock=clock)
    assert found is not None
    return found


def claims(idp: LocalProvider, clock: StillClock, **others: Any) -> dict[str, Any]:
    now = int(clock().timestamp())
    told = {"iss": idp.issuer, "aud": AUDIENCE, "sub": "00u1", "iat": now, "exp": now + 300, "auth_time": now}
    told |= {"preferred_username": "ofelia", "roles": ["viewer"]} | others
    return {name: value for name, value in told.items() if value is not None}


def caller(client: TestClient, token: str) -> Caller:
    return Caller(client, None, token)  # type: ignore[arg-type]  # who it is, the token says


# Which open something


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_a_token_opens_what_its_roles_allow(
    client: TestClient, idp: LocalProvider, clock: StillClock, algorithm: str
) -> None:
    with_token = caller(client, idp.sign(claims(idp, clock), algorithm))
    assert with_token.get(REQUESTS).status_code == 200
    refused = with_token.post(REQUESTS, {"records": [{"dataset": "people", "id": "r1"}]})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")


def mutated(idp: LocalProvider, clock: StillClock) -> dict[str, str]:
    good = claims(idp, clock)
    now = int(clock().timestamp())
    head, body, signature = idp.sign(good).split(".")
    other = base64.urlsafe_b64encode(json.dumps(good | {"roles": ["admin"]}).encode()).rstrip(b"=").decode()
    without = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    shared = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"at+jwt","kid":"ES256"}').rstrip(b"=").decode()
    # The public key, taken for a shared secret (RFC 8725, 2.1).
    secret = json.dumps(idp.published[KEYS]["keys"][2]).encode()
    forged = hmac.digest(secret, f"{shared}.{body}".encode(), hashlib.sha256)
    return {
        "another issuer": idp.sign(good | {"iss": "https://other.example"}),
        "another audience": idp.sign(good | {"aud": "https://other.example"}),
        "no audience": idp.sign(claims(idp, clock, aud=None)),
        "nobody": idp.sign(claims(idp, clock, sub=None)),
        "half a character": idp.sign(good | {"sub": "\ud800"}),
        "an empty nobody": idp.sign(good | {"sub": ""}),
        "no end": idp.sign(claims(idp, clock, exp=None)),
        "over": idp.sign(good | {"exp": now - 31}),
        "not yet": idp.sign(good | {"nbf": now + 31}),
        "an end that is no time": idp.sign(good | {"exp": True}),
        "an ID token": idp.sign(good, typ="JWT"),
        "of no type": idp.sign(good, typ=None),
        "an unknown key": idp.sign(good, kid="elsewhere"),
        "another's key": idp.sign(good, kid="EdDSA"),
        "another algorithm's key": idp.sign(good, "RS256", kid="PS256"),
        "what must be understood": idp.sign(good, crit=["b64"], b64=True),
        "changed": f"{head}.{other}.{signature}",
        "unsigned": f"{without}.{body}.",
        "signed by what is public": f"{shared}.{body}.{base64.urlsafe_b64encode(forged).decode().rstrip('=')}",
        "cut": f"{head}.{body}",
        "none": "ey",
        "long": f"{head}.{body}.{'A' * 20_000}",
    }


def test_what_opens_nothing(client: TestClient, idp: LocalProvider, clock: StillClock) -> None:
    assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 200
    for name, token in mutated(idp, clock).items():
        answer = caller(client, token).get(REQUESTS)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), name
        assert answer.headers["www-authenticate"].startswith("Bearer"), name
        assert "ofelia" not in answer.text
        assert idp.issuer not in answer.text


def test_clocks_may_differ_by_half_a_minute(reader: Provider, idp: LocalProvider, clock: StillClock) -> None:
    now = int(clock().timestamp())
    assert reader.read(idp.sign(claims(idp, clock, exp=now - 29, nbf=now + 29))).subject == "00u1"


def test_where_no_provider_is_named_no_token_counts(
    app: Any, client: TestClient, idp: LocalProvider, clock: StillClock
) -> None:
    app.state.provider = None
    assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 401


def test_keys_are_not_fetched_where_anyone_can_write(settings: Settings, clock: StillClock) -> None:
    for name in ("oidc_issuer", "oidc_keys_url"):
        plain = settings.model_copy(update={name: "http://idp.example"})
        with pytest.raises(ValueError, match="https"):
            Provider.of(plain, clock=clock)


def test_a_provider_that_leaves_the_type_out_is_taken_at_its_word(
    reader: Provider, idp: LocalProvider, clock: StillClock
) -> None:
    lenient = replace(reader, token_type="")
    assert lenient.read(idp.sign(claims(idp, clock), typ="JWT")).person


# What they allow


@pytest.mark.parametrize(
    ("told", "allowed"),
    [
        ({"roles": None, "scope": "requests:read openid"}, {"requests:read"}),
        ({"roles": ["intake", "dancer"]}, {"requests:create", "requests:read", "requests:withdraw"}),
        ({"roles": "intake"}, {"requests:create", "requests:read", "requests:withdraw"}),
        ({"roles": ["intake"], "scope": "requests:read jobs:read"}, {"requests:read"}),
        ({"roles": ["intake"], "scope": "openid profile"}, {"requests:create", "requests:read", "requests:withdraw"}),
        ({"roles": {"intake": True}, "scope": 7}, set()),
        ({"roles": [["intake"], 3], "scope": ""}, set()),
    ],
)  # fmt: skip
def test_scope_and_roles_allow_what_both_allow(
    reader: Provider, idp: LocalProvider, clock: StillClock, told: dict[str, Any], allowed: set[str]
) -> None:
    assert reader.read(idp.sign(claims(idp, clock, **told))).scopes == allowed


def test_whoever_could_make_a_second_person_is_none(
    client: TestClient, idp: LocalProvider, clock: StillClock, portal: Caller, transaction: Transaction
) -> None:
    both = caller(client, idp.sign(claims(idp, clock, roles=["admin", "privacy_officer"])))
    assert both.get(REQUESTS).json()["code"] == "separation-of-duties"
    # One after the other is no way round it, either.
    assert caller(client, idp.sign(claims(idp, clock, roles=["admin"]))).get(REQUESTS).status_code == 200
    made = portal.post(REQUESTS, {"subject": {"type": "email", "value": "ada@example.org"}}).json()
    officer = caller(client, idp.sign(claims(idp, clock, roles=["privacy_officer"])))
    refused = officer.post(f"{REQUESTS}/{made['id']}/approvals", {"record_set_hash": made["record_set_hash"]})
    assert refused.status_code == 403
    with transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM approvals")) == 0


# For whom


def test_a_caller_is_one_principal_for_ever_and_known_by_a_keyed_hash(
    client: TestClient, idp: LocalProvider, clock: StillClock, transaction: Transaction, callers: Callers
) -> None:
    callers("ofelia")  # somebody of ours is called so already
    for _ in range(2):
        assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 200
    machine = claims(idp, clock, sub="svc@idp", auth_time=None, preferred_username=None)
    assert caller(client, idp.sign(machine)).get(REQUESTS).status_code == 200
    with transaction() as session:
        found = session.scalars(select(Principal).where(Principal.provider_mac.is_not(None))).all()
        assert sorted(each.kind for each in found) == ["machine", "person"]
        [person] = [each for each in found if each.kind == "person"]
        assert person.name.startswith("ofelia-")
        stored = session.scalars(
            text("SELECT principals::text || audit_events::text FROM principals, audit_events")
        )
        assert not any("00u1" in row or "svc@idp" in row for row in stored.all())


def test_a_machine_does_not_approve_whatever_its_token_allows(
    client: TestClient, idp: LocalProvider, clock: StillClock, portal: Caller
) -> None:
    made = portal.post(REQUESTS, {"subject": {"type": "email", "value": "ada@example.org"}}).json()
    machine = caller(client, idp.sign(claims(idp, clock, auth_time=None, roles=["privacy_officer"])))
    refused = machine.post(f"{REQUESTS}/{made['id']}/approvals", {"record_set_hash": made["record_set_hash"]})
    assert refused.status_code == 403


# Its keys


def test_keys_are_fetched_once_and_an_unknown_one_asks_again_but_not_at_once(
    reader: Provider, idp: LocalProvider, clock: StillClock, made: dict[str, Private]
) -> None:
    idp.publish("ES256")
    token = idp.sign(claims(idp, clock))
    for _ in range(3):
        reader.read(token)
    assert idp.asked.count(KEYS) == 1
    idp.publish("ES256", "EdDSA")  # the provider rotates
    newer = idp.sign(claims(idp, clock), "EdDSA")
    for _ in range(3):
        with pytest.raises(Exception, match="not valid here"):
            reader.read(newer)
    assert idp.asked.count(KEYS) == 1, "whoever sends junk does not make us call"
    clock.advance(seconds=REFETCH_LEAST.total_seconds() + 1)
    assert reader.read(newer).subject == "00u1"
    assert idp.asked.count(KEYS) == 2


def test_a_key_that_was_withdrawn_is_gone_within_the_hour(
    reader: Provider, idp: LocalProvider, clock: StillClock
) -> None:
    reader.read(idp.sign(claims(idp, clock)))
    idp.publish("EdDSA")
    clock.advance(seconds=REFETCH_AFTER.total_seconds() + 1)
    with pytest.raises(Exception, match="not valid here"):
        reader.read(idp.sign(claims(idp, clock)))


def test_a_provider_that_is_away_is_believed_for_a_day(
    client: TestClient, idp: LocalProvider, clock: StillClock
) -> None:
    assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 200
    idp.published.clear()
    clock.advance(hours=23)
    assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 200
    clock.advance(seconds=KEYS_STALE_MAX.total_seconds())
    away = caller(client, idp.sign(claims(idp, clock))).get(REQUESTS)
    assert (away.status_code, away.json()["code"]) == (503, "provider-unreachable")


@pytest.mark.parametrize(
    "published", [[], {"keys": "none"}, {"keys": [7]}, {"no": "keys"}, "\x00", {"keys": [{"kty": "EC"}]}]
)
def test_keys_that_are_none_open_nothing(
    client: TestClient, idp: LocalProvider, clock: StillClock, published: object
) -> None:
    idp.published[KEYS] = published
    answer = caller(client, idp.sign(claims(idp, clock))).get(REQUESTS)
    assert answer.status_code in {401, 503}


def test_a_description_of_another_provider_is_not_followed(
    client: TestClient, idp: LocalProvider, clock: StillClock
) -> None:
    idp.published[local.DESCRIPTION]["issuer"] = "https://other.example"
    assert caller(client, idp.sign(claims(idp, clock))).get(REQUESTS).status_code == 503
    assert KEYS not in idp.asked
