"""People log in with a browser: what a login and a session withstand, what ends them, what they allow."""

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient
from limits import RateLimitItemPerHour
from sqlalchemy import select, text

from app.auth import service as auth
from app.auth import sessions
from app.auth.oidc import DESCRIBED_AGAIN_AFTER, Door
from app.auth.provider import LOGOUT
from app.auth.scopes import ROLES
from app.config import Settings
from app.http import ids
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.tables import Login, PersonSession, Principal
from tests.fixtures.api import Caller, Callers, Response, StillClock
from tests.fixtures.provider import DESCRIPTION, KEYS, TOKEN, LocalProvider

REQUESTS = "/v1/erasure-requests"
PUBLIC = "https://lethe.example"
COOKIE, LOGIN_COOKIE = "__Host-lethe", "__Host-lethe-login"
SET = re.compile(r'(__Host-[a-z-]+)="?([^;"]*)"?; (.*)')


@pytest.fixture
def settings(settings: Settings, idp: LocalProvider) -> Settings:
    return settings.model_copy(
        update={
            "oidc_issuer": idp.issuer,
            "oidc_audience": PUBLIC,
            "oidc_client_id": "lethe-web",
            "public_url": PUBLIC,
            "logins_per_minute": 1000,
        }
    )


@dataclass
class Browser:
    """Keeps cookies as a browser does that is at the public URL; the test client is at no https."""

    client: TestClient
    idp: LocalProvider
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str | None = None

    def send(self, method: str, path: str, **more: Any) -> Response:
        headers = dict(more.pop("headers", {}))
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self.client.request(method, path, headers=headers, follow_redirects=False, **more)
        for line in answer.headers.get_list("set-cookie"):
            found = SET.fullmatch(line)
            assert found is not None, line
            # What `__Host-` demands, and what keeps scripts and other sites away.
            assert {"HttpOnly", "Path=/", "SameSite=lax", "Secure"} <= set(found[3].split("; ")), line
            assert "Domain" not in line
            self.cookies[found[1]] = found[2]
            if "Max-Age=0" in line:
                del self.cookies[found[1]]
        return answer

    def get(self, path: str) -> Response:
        return self.send("GET", path)

    def post(self, path: str, body: object = None, *, key: str = "k1", csrf: str | None = None) -> Response:
        headers = {"Idempotency-Key": key, "If-Match": "*"}
        if csrf or self.csrf:
            headers["X-CSRF-Token"] = csrf or self.csrf or ""
        return self.send("POST", path, json=body, headers=headers)

    def leave(self, return_to: str = "/auth/session") -> str:
        """Go to the provider, and return the URL that it sends back to."""
        answer = self.send("GET", "/auth/login", params={"return_to": return_to})
        assert answer.status_code == 303, answer.text
        return self.idp.authorize(answer.headers["location"])

    def come_back(self, url: str) -> Response:
        assert url.startswith(f"{PUBLIC}/auth/callback?")
        return self.get(url.removeprefix(PUBLIC))

    def log_in(self) -> "Browser":
        answer = self.come_back(self.leave())
        assert answer.status_code == 303, answer.text
        self.csrf = self.get("/auth/session").json()["csrf_token"]
        return self


@pytest.fixture
def person(idp: LocalProvider, clock: StillClock) -> dict[str, Any]:
    """Return the claims of the person in front of each browser; a test changes them."""
    now = int(clock().timestamp())
    idp.person.update(sub="00u1", iat=now, exp=now + 300, preferred_username="ofelia", roles=["viewer"])
    return idp.person


@pytest.fixture
def browser(client: TestClient, idp: LocalProvider, person: dict[str, Any]) -> Browser:
    return Browser(client, idp)


@pytest.fixture
def other(client: TestClient, idp: LocalProvider) -> Browser:
    """Return the browser of somebody who means no good."""
    return Browser(client, idp)


def as_of(person: dict[str, Any], clock: StillClock, **changed: Any) -> None:
    """Let the provider say something else from now on."""
    now = int(clock().timestamp())
    person.update(iat=now, exp=now + 300, **changed)


def code(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# A login


def test_a_person_logs_in_and_may_what_their_roles_allow(
    browser: Browser, idp: LocalProvider, transaction: Transaction, settings: Settings, portal: Caller
) -> None:
    back = browser.come_back(browser.leave("/v1/erasure-requests?state=triage"))
    assert (back.status_code, back.headers["location"]) == (303, "/v1/erasure-requests?state=triage")
    assert (back.headers["cache-control"], back.headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert set(browser.cookies) == {COOKIE}, "what the login needed is taken away again"
    me = browser.get("/auth/session").json()
    assert (me["person"], me["scopes"]) == (True, sorted(ROLES["viewer"]))
    assert me["expires_at"] == "2026-11-21T20:00:00Z"
    assert browser.get(REQUESTS).status_code == 200
    browser.csrf = me["csrf_token"]
    assert code(browser.post(REQUESTS, {})) == (403, "scope-missing")
    [asked] = idp.redeemed
    assert len(asked["code_verifier"]) == 43
    with transaction() as session:
        stored = "".join(session.scalars(text("SELECT person_sessions::text FROM person_sessions")).all())
        stored += "".join(session.scalars(text("SELECT convert_from(body, 'UTF8') FROM audit_events")).all())
        assert browser.cookies[COOKIE] not in stored
        assert me["csrf_token"] not in stored
        assert "00u1" not in stored
        assert session.scalars(select(Login)).all() == []


def test_the_provider_is_asked_as_its_rules_want_it(browser: Browser, idp: LocalProvider) -> None:
    url = browser.get("/auth/login").headers["location"]
    assert url.startswith(f"{idp.issuer}/authorize?tenant=t1&"), "its own parameters stay"
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["redirect_uri"] == f"{PUBLIC}/auth/callback"
    assert (asked["client_id"], asked["scope"]) == ("lethe-web", "openid profile")
    again = browser.get("/auth/login").headers["location"]
    new = {name: values[0] for name, values in parse_qs(urlsplit(again).query).items()}
    assert all(asked[name] != new[name] for name in ("state", "nonce", "code_challenge"))


def test_a_client_with_a_secret_shows_it(
    settings: Settings, browser: Browser, idp: LocalProvider, app: Any, clock: StillClock, tmp_path: Any
) -> None:
    (tmp_path / "secret").write_text("s3cr3t\n")
    idp.secret = "s3cr3t"
    secret = settings.model_copy(update={"oidc_client_secret": tmp_path / "secret"})
    assert browser.come_back(browser.leave()).status_code == 403, "without it the code is worth nothing"
    app.state.login = Door.of(secret, app.state.provider, clock=clock)
    assert "s3cr3t" not in repr(app.state.login)
    assert browser.come_back(browser.leave()).status_code == 303


def test_two_tabs_may_log_in_at_once(browser: Browser) -> None:
    first, second = browser.leave(), browser.leave()
    login = dict(browser.cookies)
    assert browser.come_back(first).status_code == 303
    browser.cookies.update(login)
    assert browser.come_back(second).status_code == 303


@pytest.mark.parametrize(
    "return_to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/ok\\..\\evil",
        "evil",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/a\r\nSet-Cookie: x=y",
        "",
        " /a",
        "/" + "a" * 1024,
    ],
)
def test_nobody_is_sent_on_to_another_site(browser: Browser, return_to: str) -> None:
    """An open redirect: a link of ours that ends at somebody else's."""
    refused = browser.send("GET", "/auth/login", params={"return_to": return_to})
    assert refused.status_code == 422
    assert "evil" not in refused.text


@pytest.mark.parametrize("return_to", ["/", "/ui/requests?state=triage&sort=due_at", "/a//b", "/ui/#late"])
def test_a_path_of_ours_is_gone_to(browser: Browser, return_to: str) -> None:
    assert browser.come_back(browser.leave(return_to)).headers["location"] == return_to


def test_a_login_that_somebody_else_began_logs_nobody_in(browser: Browser, other: Browser) -> None:
    """Login CSRF: who follows another's link would work, unknowingly, in the other's account."""
    link = other.leave()
    assert code(browser.come_back(link)) == (403, "login-not-begun")
    browser.get("/auth/login")  # has a login of its own under way, and it is still not this one
    assert code(browser.come_back(link)) == (403, "login-not-begun")
    assert COOKIE not in browser.cookies
    assert other.come_back(link).status_code == 303, "nor has the try cost the other theirs"


def test_a_state_and_its_code_count_once(browser: Browser, idp: LocalProvider) -> None:
    link = browser.leave()
    login = dict(browser.cookies)
    assert browser.come_back(link).status_code == 303
    browser.cookies.update(login)
    assert code(browser.come_back(link)) == (403, "login-not-begun")
    assert len(idp.redeemed) == 1


def test_a_code_of_another_login_is_worth_nothing(browser: Browser, idp: LocalProvider) -> None:
    """A code that was stolen on its way is bound to the verifier of whoever asked for it."""
    stolen = parse_qs(urlsplit(browser.leave()).query)["code"][0]
    mine = parse_qs(urlsplit(browser.leave()).query)
    link = f"{PUBLIC}/auth/callback?code={stolen}&state={mine['state'][0]}&iss={idp.issuer}"
    assert code(browser.come_back(link)) == (403, "login-refused")
    assert idp.redeemed[-1]["code"] == stolen


def test_a_login_lasts_ten_minutes(browser: Browser, clock: StillClock, person: dict[str, Any]) -> None:
    link = browser.leave()
    clock.advance(minutes=10)
    as_of(person, clock)
    assert code(browser.come_back(link)) == (403, "login-not-begun")


def test_what_a_browser_had_before_is_worth_nothing_after(browser: Browser, other: Browser) -> None:
    """Session fixation: a value that somebody has put into the browser does not become the person's."""
    other.log_in()
    planted = other.cookies[COOKIE]
    browser.cookies[COOKIE] = planted
    browser.log_in()
    assert browser.cookies[COOKIE] != planted
    assert code(other.get(REQUESTS)) == (401, "unauthenticated"), "the one that was there has ended"


@pytest.mark.parametrize("said", ["error=access_denied", "code=a&code=b", "", "code="])
def test_a_provider_that_refuses_is_not_quoted(browser: Browser, idp: LocalProvider, said: str) -> None:
    state = parse_qs(urlsplit(browser.leave()).query)["state"][0]
    words = f"error_description=ofelia%20is%20locked&session_state=1&state={state}&iss={idp.issuer}"
    refused = browser.get(f"/auth/callback?{said}&{words}")
    assert code(refused) == (403, "login-refused")
    assert "ofelia" not in refused.text


def test_an_answer_of_another_provider_is_refused(browser: Browser, idp: LocalProvider) -> None:
    """Mix-up (RFC 9207): the code of one provider is not taken to another."""
    assert code(browser.come_back(browser.leave().replace("iss=http", "iss=https"))) == (403, "login-refused")
    link = browser.leave()
    assert code(browser.come_back(link[: link.index("&iss=")])) == (403, "login-refused")
    assert idp.redeemed == []


def test_id_tokens_that_are_none(browser: Browser, idp: LocalProvider, clock: StillClock) -> None:
    now = int(clock().timestamp())
    wrong: dict[str, dict[str, Any]] = {
        "another issuer": {"iss": "https://other.example"},
        "another client": {"aud": "https://lethe.example"},
        "several clients, and not for whom": {"aud": ["lethe-web", "other"]},
        "for another one": {"aud": ["lethe-web", "other"], "azp": "other"},
        "for another one alone": {"azp": "other"},
        "another login": {"nonce": "of another login"},
        "no nonce": {"nonce": None},
        "a nonce that is none": {"nonce": 7},
        "over": {"exp": now - 31},
        "no end": {"exp": None},
        "nobody": {"sub": None},
        "no beginning": {"iat": None},
    }
    plain = dict(idp.person)
    for name, changed in wrong.items():
        idp.person = plain | changed
        answer = browser.come_back(browser.leave())
        assert code(answer) == (403, "login-refused"), name
        assert COOKIE not in browser.cookies, name
    idp.person = plain | {"exp": now - 29}  # clocks differ
    assert browser.come_back(browser.leave()).status_code == 303
    idp.person = plain | {"aud": ["lethe-web", "other"], "azp": "lethe-web"}
    assert browser.come_back(browser.leave()).status_code == 303


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_an_id_token_is_signed_by_a_private_key_of_the_provider(
    browser: Browser, idp: LocalProvider, person: dict[str, Any], algorithm: str
) -> None:
    link = browser.leave()
    asked = idp.codes[parse_qs(urlsplit(link).query)["code"][0]]
    claims = {"iss": idp.issuer, "aud": "lethe-web", "nonce": asked["nonce"]} | person
    idp.published[TOKEN] = {"id_token": idp.sign(claims, algorithm, typ="JWT")}
    assert browser.come_back(link).status_code == 303


@pytest.mark.parametrize(
    "answered", [{"id_token": 7}, {"access_token": "x"}, ["id_token"], {"id_token": "a.b.c"}, "x" * 300_000]
)
def test_an_answer_without_an_id_token_lets_nobody_in(
    browser: Browser, idp: LocalProvider, answered: object
) -> None:
    link = browser.leave()
    idp.published[TOKEN] = answered
    assert code(browser.come_back(link)) == (403, "login-refused")


def test_an_access_token_is_no_id_token(browser: Browser, idp: LocalProvider, person: dict[str, Any]) -> None:
    link = browser.leave()
    asked = idp.codes[parse_qs(urlsplit(link).query)["code"][0]]
    claims = {"iss": idp.issuer, "aud": "lethe-web", "nonce": asked["nonce"]} | person
    idp.published[TOKEN] = {"id_token": idp.sign(claims)}
    assert code(browser.come_back(link)) == (403, "login-refused")


def test_a_provider_that_is_away_is_said_to_be_away(
    browser: Browser, idp: LocalProvider, clock: StillClock
) -> None:
    idp.published.clear()
    assert code(browser.get("/auth/login")) == (503, "provider-unreachable")
    idp.publish("ES256")
    assert code(browser.get("/auth/login")) == (503, "provider-unreachable"), "not asked again at once"
    clock.advance(minutes=1)
    assert browser.get("/auth/login").status_code == 303
    idp.published.clear()
    clock.advance(seconds=DESCRIBED_AGAIN_AFTER.total_seconds() + 1)
    assert browser.get("/auth/login").status_code == 303, "what it said counts for a day"
    clock.advance(days=1)
    assert code(browser.get("/auth/login")) == (503, "provider-unreachable")


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://other.example"},
        {"token_endpoint": "http://idp.example/token"},
        {"authorization_endpoint": None},
        {"end_session_endpoint": "http://idp.example/end"},
    ],
)
def test_a_description_that_leads_astray_is_not_followed(
    browser: Browser, idp: LocalProvider, changed: dict[str, Any]
) -> None:
    idp.published[DESCRIPTION].update(changed)
    assert code(browser.get("/auth/login")) == (503, "provider-unreachable")


def test_logins_are_counted_by_address(app: Any, browser: Browser) -> None:
    app.state.limiter._logins = RateLimitItemPerHour(2)  # of a minute a slow computer may need two
    assert [browser.get("/auth/login").status_code for _ in range(3)] == [303, 303, 429]
    assert code(browser.get("/auth/callback?state=x&code=y")) == (429, "rate-limited")


def test_where_no_client_is_named_nobody_logs_in(app: Any, browser: Browser) -> None:
    app.state.login = None
    assert code(browser.get("/auth/login")) == (404, "not-found")
    assert code(browser.get("/auth/callback?state=x&code=y")) == (404, "not-found")


def test_a_cookie_is_not_given_where_anyone_can_listen(
    app: Any, settings: Settings, clock: StillClock
) -> None:
    plain = settings.model_copy(update={"public_url": "http://lethe.example"})
    with pytest.raises(ValueError, match="https"):
        Door.of(plain, app.state.provider, clock=clock)
    with pytest.raises(ValueError, match="LETHE_OIDC_ISSUER"):
        Door.of(settings, None, clock=clock)


# What a session allows


def test_a_change_needs_the_sessions_token(browser: Browser, person: dict[str, Any], other: Browser) -> None:
    """CSRF: another site's page has the browser send the cookie, and cannot know the token."""
    person["roles"] = ["privacy_officer"]
    browser.log_in()
    token, browser.csrf = browser.csrf, None
    body = {"subject": {"type": "email", "value": "ada@example.org"}}
    assert code(browser.post(REQUESTS, body)) == (403, "csrf-token-missing")
    other.log_in()
    for wrong in (other.csrf, "x", "é"):
        refused = browser.send(
            "POST",
            REQUESTS,
            json=body,
            headers={b"X-CSRF-Token": str(wrong).encode(), b"Idempotency-Key": b"k"},
        )
        assert code(refused) == (403, "csrf-token-missing")
    assert browser.post(REQUESTS, body, csrf=token).status_code == 201


def test_a_bearer_needs_no_token_and_the_cookie_does_not_count_beside_it(
    browser: Browser, portal: Caller
) -> None:
    browser.log_in()
    headers = portal.headers | {"Idempotency-Key": "k"}
    made = browser.send(
        "POST", REQUESTS, json={"subject": {"type": "email", "value": "a@b.c"}}, headers=headers
    )
    assert made.status_code == 201
    me = browser.send("GET", "/auth/session", headers=portal.headers).json()
    assert (me["principal"], me["session"], me["csrf_token"]) == (
        ids.encode("pr", portal.principal_id),
        None,
        None,
    )


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "é" * 43, "lethe_" + "A" * 38])
def test_what_is_no_session(client: TestClient, browser: Browser, cookie: str) -> None:
    answer = client.get(REQUESTS, headers=[(b"Cookie", f"{COOKIE}={cookie}".encode())])
    assert code(answer) == (401, "unauthenticated")


def test_a_person_is_one_principal_by_token_and_by_session(
    browser: Browser, idp: LocalProvider, person: dict[str, Any], client: TestClient, clock: StillClock
) -> None:
    """Nobody submits with a token and approves with a session: they are (iss, sub), however they come."""
    person["roles"] = ["privacy_officer"]
    browser.log_in()
    now = int(clock().timestamp())
    claims = person | {"iss": idp.issuer, "aud": PUBLIC, "exp": now + 300, "auth_time": now}
    by_token = Caller(client, None, idp.sign(claims))  # type: ignore[arg-type]  # who it is, the token says
    me = by_token.get("/auth/session").json()
    assert me["principal"] == browser.get("/auth/session").json()["principal"]
    made = by_token.post(REQUESTS, {"subject": {"type": "email", "value": "ada@example.org"}}).json()
    body = {"record_set_hash": "0" * 64}
    assert code(browser.post(f"{REQUESTS}/{made['id']}/approvals", body)) == (403, "four-eyes")


def test_whoever_could_make_a_second_person_does_not_log_in(browser: Browser, person: dict[str, Any]) -> None:
    person["roles"] = ["admin", "privacy_officer"]
    assert code(browser.come_back(browser.leave())) == (403, "separation-of-duties")


@pytest.mark.parametrize("roles", [None, [], ["dancer"], {"viewer": True}])
def test_who_has_no_role_here_does_not_log_in(
    browser: Browser, person: dict[str, Any], roles: object
) -> None:
    person["roles"] = roles
    assert code(browser.come_back(browser.leave())) == (403, "no-role")


def test_a_machine_does_not_log_in(
    browser: Browser, idp: LocalProvider, person: dict[str, Any], client: TestClient, clock: StillClock
) -> None:
    now = int(clock().timestamp())
    claims = person | {"iss": idp.issuer, "aud": PUBLIC, "exp": now + 300}
    machine = Caller(client, None, idp.sign(claims))  # type: ignore[arg-type]  # who it is, the token says
    assert machine.get(REQUESTS).status_code == 200
    assert code(browser.come_back(browser.leave())) == (403, "person-needed")


# What ends it


def test_a_session_ends_with_its_roles(
    browser: Browser, other: Browser, person: dict[str, Any], clock: StillClock, callers: Callers
) -> None:
    """CVE-2025-57766: sessions outlived the change of what they had been begun with."""
    browser.log_in()
    clock.advance(minutes=1)
    as_of(person, clock)
    other.log_in()
    assert browser.get(REQUESTS).status_code == 200, "another login with the same roles ends nothing"
    clock.advance(minutes=1)
    as_of(person, clock, roles=["intake"])
    third = Browser(browser.client, browser.idp).log_in()
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")
    assert code(other.get(REQUESTS)) == (401, "unauthenticated")
    assert third.get("/auth/session").json()["scopes"] == sorted(ROLES["intake"])
    kinds = [each["kind"] for each in callers("auditor", "auditor").get("/v1/audit-events").json()]
    assert kinds.count("session.ended") == 2
    assert kinds.count("principal.roles_changed") == 1


def test_a_newer_token_with_other_roles_ends_sessions_and_an_older_one_does_not(
    browser: Browser, idp: LocalProvider, person: dict[str, Any], client: TestClient, clock: StillClock
) -> None:
    """CVE-2025-57766 again, where the change is seen first in an access token."""

    def token(**changed: Any) -> Caller:
        now = int(clock().timestamp())
        claims = person | {"iss": idp.issuer, "aud": PUBLIC, "iat": now, "exp": now + 900, "auth_time": now}
        claims |= changed
        signed = idp.sign({name: value for name, value in claims.items() if value is not None})
        return Caller(client, None, signed)  # type: ignore[arg-type]  # who it is, the token says

    older = token(roles=["auditor"])
    clock.advance(minutes=1)
    as_of(person, clock)
    browser.log_in()
    assert older.get(REQUESTS).status_code == 200
    clock.advance(minutes=1)
    assert token().get(REQUESTS).status_code == 200
    assert token(roles=None, scope="requests:read").get(REQUESTS).status_code == 200
    assert browser.get(REQUESTS).status_code == 200, "neither an older one nor one that names no roles"
    clock.advance(minutes=1)
    assert token(roles=["auditor"]).get(REQUESTS).status_code == 200
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")


def test_a_session_left_idle_ends_and_one_that_is_used_does_not(browser: Browser, clock: StillClock) -> None:
    browser.log_in()
    for _ in range(3):
        clock.advance(minutes=29)
        assert browser.get(REQUESTS).status_code == 200
    clock.advance(minutes=30)
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")


def test_a_session_ends_after_eight_hours_however_busy(browser: Browser, clock: StillClock) -> None:
    browser.log_in()
    for _ in range(8 * 4 - 1):
        clock.advance(minutes=15)
        assert browser.get(REQUESTS).status_code == 200
    clock.advance(minutes=15)
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")


def test_logging_out_ends_it_here_and_says_where_it_ends_there(browser: Browser, idp: LocalProvider) -> None:
    browser.log_in()
    kept = dict(browser.cookies)
    csrf, browser.csrf = browser.csrf, None
    assert code(browser.post("/auth/logout")) == (403, "csrf-token-missing")
    left = browser.post("/auth/logout", csrf=csrf)
    assert left.status_code == 200
    there = urlsplit(left.json()["continue_at"])
    assert f"{there.scheme}://{there.netloc}{there.path}" == f"{idp.issuer}/end"
    asked = {name: values[0] for name, values in parse_qs(there.query).items()}
    assert asked == {"client_id": "lethe-web", "post_logout_redirect_uri": f"{PUBLIC}/"}
    assert browser.cookies == {}
    browser.cookies = kept
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated"), (
        "whoever has copied the cookie has nothing"
    )


def test_a_provider_that_ends_no_sessions_is_not_gone_to(
    browser: Browser, idp: LocalProvider, portal: Caller
) -> None:
    del idp.published[DESCRIPTION]["end_session_endpoint"]
    assert browser.log_in().post("/auth/logout").json() == {"continue_at": None}
    assert code(portal.post("/auth/logout")) == (409, "no-session")


def logout_token(idp: LocalProvider, clock: StillClock, **changed: Any) -> str:
    now = int(clock().timestamp())
    told = {"iss": idp.issuer, "aud": "lethe-web", "sub": "00u1", "iat": now, "exp": now + 120, "jti": "j1"}
    told |= {"events": {LOGOUT: {}}} | changed
    claims = {name: value for name, value in told.items() if value is not None}
    return idp.sign(claims, typ="logout+jwt")


def tell(client: TestClient, token: str) -> Response:
    return client.post("/auth/backchannel-logout", data={"logout_token": token})


def test_who_leaves_at_the_provider_has_left_here(
    browser: Browser,
    other: Browser,
    idp: LocalProvider,
    client: TestClient,
    clock: StillClock,
    person: dict[str, Any],
) -> None:
    """CVE-2025-57766 once more: the provider says so itself, before any token or login shows it."""
    browser.log_in()
    clock.advance(minutes=5)
    token = logout_token(idp, clock)
    told = tell(client, token)
    assert (told.status_code, told.headers["cache-control"]) == (200, "no-store")
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")
    clock.advance(minutes=1)
    as_of(person, clock)
    other.log_in()
    assert tell(client, token).status_code == 200
    assert other.get(REQUESTS).status_code == 200, "shown again, it ends nothing that began later"
    assert tell(client, logout_token(idp, clock, sub="nobody")).status_code == 200


def test_what_is_no_logout_token_ends_nothing(
    browser: Browser, idp: LocalProvider, client: TestClient, clock: StillClock, person: dict[str, Any]
) -> None:
    browser.log_in()
    now = int(clock().timestamp())
    wrong: dict[str, dict[str, Any]] = {
        "another issuer": {"iss": "https://other.example"},
        "another client": {"aud": PUBLIC},
        "an ID token": {"nonce": "n"},
        "of no event": {"events": None},
        "of another event": {"events": {"http://schemas.openid.net/event/other": {}}},
        "of an event that is none": {"events": {LOGOUT: True}},
        "nobody": {"sub": None},
        "no name of its own": {"jti": None},
        "no beginning": {"iat": None},
        "over": {"exp": now - 31},
    }
    for name, changed in wrong.items():
        assert code(tell(client, logout_token(idp, clock, **changed))) == (401, "unauthenticated"), name
    claims = {"iss": idp.issuer, "aud": "lethe-web"} | person
    assert code(tell(client, idp.sign(claims))) == (401, "unauthenticated"), "an access token"
    assert code(client.post("/auth/backchannel-logout")) == (422, "logout-token-missing")
    many = "&".join("logout_token=x" for _ in range(11))
    assert client.post("/auth/backchannel-logout", content=many).status_code == 422
    assert browser.get(REQUESTS).status_code == 200


def test_who_manages_keys_sees_who_is_logged_in_and_ends_it(
    browser: Browser, other: Browser, person: dict[str, Any], callers: Callers, clock: StillClock
) -> None:
    admin = callers("admin", "admin")
    browser.log_in()
    person["sub"], person["preferred_username"] = "00u2", "rosa"
    other.log_in()
    page = admin.get("/v1/sessions", limit=1).json()
    assert [each["name"] for each in page["items"]] == ["rosa"]
    [mine] = admin.get("/v1/sessions", cursor=page["next"]).json()["items"]
    assert (mine["name"], mine["scopes"]) == ("ofelia", sorted(ROLES["viewer"]))
    assert browser.cookies[COOKIE] not in str(page)
    for _ in range(2):
        assert admin.delete(f"/v1/sessions/{mine['id']}").status_code == 204
    assert code(browser.get(REQUESTS)) == (401, "unauthenticated")
    assert other.get(REQUESTS).status_code == 200
    assert code(admin.delete(f"/v1/sessions/{ids.encode('ses', admin.principal_id)}")) == (404, "not-found")
    clock.advance(minutes=31)
    assert admin.get("/v1/sessions").json()["items"] == [], "who was idle is not logged in"


def test_who_is_shut_out_is_so_by_every_door(
    browser: Browser,
    idp: LocalProvider,
    person: dict[str, Any],
    callers: Callers,
    client: TestClient,
    clock: StillClock,
    transaction: Transaction,
    keyring: Keyring,
) -> None:
    admin = callers("admin", "admin")
    principal = browser.log_in().get("/auth/session").json()["principal"]
    with transaction() as session:
        _, key = auth.create_key(
            session,
            keyring.api,
            principal_id=ids.decode("pr", principal),
            scopes=["requests:read"],
            at=clock(),
        )
    now = int(clock().timestamp())
    claims = person | {"iss": idp.issuer, "aud": PUBLIC, "exp": now + 300, "auth_time": now}
    doors = [
        Caller(client, None, token).get  # type: ignore[arg-type]  # who it is, the token says
        for token in (key, idp.sign(claims))
    ]
    assert [door(REQUESTS).status_code for door in (*doors, browser.get)] == [200, 200, 200]
    shut = admin.post(f"/v1/principals/{principal}/deactivation")
    assert (shut.status_code, shut.json()["disabled_at"]) == (200, "2026-11-21T12:00:00Z")
    assert [door(REQUESTS).status_code for door in (*doors, browser.get)] == [401, 401, 401]
    assert code(Browser(client, idp).come_back(browser.leave())) == (403, "login-not-begun")
    assert code(browser.come_back(browser.leave())) == (401, "unauthenticated")
    assert admin.post(f"/v1/principals/{principal}/activation").json()["disabled_at"] is None
    assert [door(REQUESTS).status_code for door in (*doors, browser.get)] == [200, 200, 401], (
        "an ended one stays so"
    )
    own = ids.encode("pr", admin.principal_id)
    assert code(admin.post(f"/v1/principals/{own}/deactivation")) == (409, "yourself")
    nobody = ids.encode("pr", ids.decode("ses", ids.encode("ses", admin.principal_id)))
    assert nobody == own
    unknown = admin.post("/v1/principals/pr_00000000000000000000000000/deactivation")
    assert code(unknown) == (404, "not-found")


def test_what_has_ended_is_forgotten_after_a_fortnight(
    browser: Browser, other: Browser, transaction: Transaction, clock: StillClock
) -> None:
    browser.log_in().post("/auth/logout")
    other.get("/auth/login")
    with transaction() as session:
        assert sessions.forget(session, now=clock()) == 0
    clock.advance(days=14, minutes=1)
    with transaction() as session:
        assert sessions.forget(session, now=clock()) == 2
        assert session.scalars(select(PersonSession)).all() == []
        assert session.scalars(select(Principal.name).where(Principal.provider_mac.is_not(None))).all() == [
            "ofelia"
        ]


def test_nothing_of_a_login_is_in_the_logs(browser: Browser, capfd: pytest.CaptureFixture[str]) -> None:
    link = browser.leave()
    asked = parse_qs(urlsplit(link).query)
    browser.come_back(link)
    browser.csrf = browser.get("/auth/session").json()["csrf_token"]
    said = "".join(capfd.readouterr())
    assert "/auth/callback" in said
    for secret in (
        asked["state"][0],
        asked["code"][0],
        browser.cookies[COOKIE],
        browser.csrf,
        "ofelia",
        KEYS,
    ):
        assert str(secret) not in said
