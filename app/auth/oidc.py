"""A person's login at the identity provider: authorisation code with PKCE (RFC 6749, 7636, 9700).

    door.leave(leaving)              the URL to send the browser to
    door.redeem(code, returned)      -> Shown: who has logged in, by the ID token that the code is worth
    door.farewell()                  the URL where the provider forgets them too, if it has one

Of the provider only its description is believed (OpenID Connect Discovery 1.0), fetched from the issuer
that the settings name; an answer that says it comes from another issuer is refused (RFC 9207). Access
and refresh tokens that come along are dropped unread: nothing is done in the person's name anywhere.

Why no library for it: what is left are two URLs and one POST. The part in which mistakes are made, the
ID token, is checked by the same code and the same PyJWT as access tokens (`app.auth.provider`); a client
framework would bring its own session, its own key cache and its own idea of which algorithms count.
"""

import base64
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit, urlunsplit

import httpx

from app import telemetry
from app.auth.provider import FETCH_SECONDS, Fetch, Provider, fetch, private
from app.auth.service import Shown, Unauthenticated
from app.auth.sessions import Leaving, Returned
from app.clock import Clock
from app.config import Settings
from app.errors import Forbidden, Unavailable

CALLBACK = "/auth/callback"
DESCRIPTION = "/.well-known/openid-configuration"
DESCRIBED_AGAIN_AFTER = timedelta(hours=1)
DESCRIPTION_STALE_MAX = timedelta(days=1)
DESCRIBED_LEAST = timedelta(seconds=30)
"""How soon a provider that did not answer is asked again."""
ANSWER_BYTES_MAX = 256 * 1024
CODE_CHARACTERS_MAX = 4096

_log = telemetry.logger("auth")


class LoginRefused(Forbidden):
    """The provider, or what it said, did not let this person in."""

    code = "login-refused"


@dataclass
class Description:
    """What the provider says of itself; fetched when it is needed, believed for a day if it is away."""

    issuer: str
    clock: Clock
    fetch: Fetch = fetch
    _said: Mapping[str, Any] | None = None
    _fetched: datetime | None = None
    _tried: datetime | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Mapping[str, Any]:
        """Return it.

        Raises:
            Unavailable: if it could not be had for a day, or is not what it must be.
        """
        with self._lock:
            now = self.clock()
            if self._older(self._fetched, DESCRIBED_AGAIN_AFTER) and self._older(
                self._tried, DESCRIBED_LEAST
            ):
                self._tried = now
                self._refresh(now)
            if self._said is None or self._older(self._fetched, DESCRIPTION_STALE_MAX):
                raise Unavailable("the identity provider cannot be reached", code="provider-unreachable")
            return self._said

    def _older(self, instant: datetime | None, age: timedelta) -> bool:
        return instant is None or self.clock() - instant > age

    def _refresh(self, now: datetime) -> None:
        try:
            said = _described(self.fetch(f"{self.issuer.rstrip('/')}{DESCRIPTION}"), self.issuer)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("provider not described", **telemetry.failure(error))
            return
        self._said, self._fetched = said, now


def _described(said: Any, issuer: str) -> Mapping[str, Any]:
    """Return a description, if it is this issuer's and leads nowhere that anybody can listen."""
    urls = [said["authorization_endpoint"], said["token_endpoint"]]
    urls += filter(None, [said.get("end_session_endpoint")])
    if said["issuer"] != issuer or not all(isinstance(each, str) and private(each) for each in urls):
        raise ValueError("it describes another provider, or one that anybody can listen to")
    return dict(said)


@dataclass(frozen=True, kw_only=True)
class Door:
    """The one client that we are to the one provider."""

    provider: Provider
    client_id: str
    client_secret: str | None = field(repr=False)
    public_url: str
    scope: str
    description: Description

    @classmethod
    def of(cls, settings: Settings, provider: Provider | None, *, clock: Clock) -> "Door | None":
        """Return the door that people come in by, if the settings name a client.

        Raises:
            ValueError: if a cookie could not be kept to ourselves, or there is no provider.
        """
        if settings.oidc_client_id is None:
            return None
        if provider is None:
            raise ValueError("LETHE_OIDC_CLIENT_ID needs LETHE_OIDC_ISSUER")
        if not private(settings.public_url):
            raise ValueError("people log in by https: LETHE_PUBLIC_URL")
        secret = settings.oidc_client_secret
        return cls(
            provider=provider,
            client_id=settings.oidc_client_id,
            client_secret=None if secret is None else secret.read_text(encoding="utf-8").strip(),
            public_url=settings.public_url.rstrip("/"),
            scope=settings.oidc_scope,
            description=Description(provider.issuer, clock),
        )

    @property
    def redirect_uri(self) -> str:
        """Return where the provider sends people back to; registered there, to the letter."""
        return f"{self.public_url}{CALLBACK}"

    def leave(self, leaving: Leaving) -> str:
        """Return where the browser goes to log in."""
        challenge = hashlib.sha256(leaving.verifier.encode()).digest()
        return _with(
            self.description.read()["authorization_endpoint"],
            {
                "response_type": "code",
                "client_id": self.client_id,
                "redirect_uri": self.redirect_uri,
                "scope": self.scope,
                "state": leaving.state,
                "nonce": leaving.nonce,
                "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
                "code_challenge_method": "S256",
            },
        )

    def require_issuer(self, said: str | None) -> None:
        """Refuse an answer of another provider, or one that leaves out whose it is although it could say.

        Raises:
            LoginRefused: RFC 9207; a code that is taken to the wrong place is lost.
        """
        promised = self.description.read().get("authorization_response_iss_parameter_supported") is True
        if said != self.provider.issuer and (promised or said is not None):
            raise LoginRefused("this answer is another provider's")

    def redeem(self, code: str, returned: Returned) -> Shown:
        """Return who has logged in.

        Raises:
            LoginRefused: if the provider does not take the code, or its ID token is not for this login.
            Unavailable: if it does not answer.
        """
        if not 0 < len(code) <= CODE_CHARACTERS_MAX:
            raise LoginRefused("this code is none")
        described = self.description.read()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": returned.verifier,
        }
        said = _post(
            described["token_endpoint"], form | self._named(described), headers=self._shown(described)
        )
        token = said.get("id_token")
        if not isinstance(token, str):
            raise LoginRefused("the provider did not say who it is")
        try:
            return self.provider.read_identity(token, client_id=self.client_id, nonce=returned.nonce)
        except Unauthenticated as error:
            raise LoginRefused("what the provider said is not valid here") from error

    def farewell(self) -> str | None:
        """Return where the provider ends its own session (OpenID Connect RP-Initiated Logout 1.0)."""
        try:
            endpoint = self.description.read().get("end_session_endpoint")
        except Unavailable:
            return None  # here it has ended all the same
        if endpoint is None:
            return None
        return _with(
            endpoint, {"client_id": self.client_id, "post_logout_redirect_uri": f"{self.public_url}/"}
        )

    def _in_the_body(self, described: Mapping[str, Any]) -> bool:
        """Return whether the secret goes into the form; the default is a header (RFC 6749, 2.3.1)."""
        methods = described.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return "client_secret_basic" not in methods and "client_secret_post" in methods

    def _named(self, described: Mapping[str, Any]) -> dict[str, str]:
        if self.client_secret is None:
            return {"client_id": self.client_id}
        if self._in_the_body(described):
            return {"client_id": self.client_id, "client_secret": self.client_secret}
        return {}

    def _shown(self, described: Mapping[str, Any]) -> dict[str, str]:
        if self.client_secret is None or self._in_the_body(described):
            return {}
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.client_secret)}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _post(url: str, form: Mapping[str, str], *, headers: Mapping[str, str]) -> Mapping[str, Any]:
    """Send a form and return the JSON that is answered, within bounds."""
    try:
        with httpx.stream(
            "POST",
            url,
            data=dict(form),
            headers={"Accept": "application/json", **headers},
            timeout=FETCH_SECONDS,
            follow_redirects=False,
        ) as answer:
            body = b""
            for part in answer.iter_bytes():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise LoginRefused("the provider says too much")
        status = answer.status_code
    except httpx.HTTPError as error:
        raise Unavailable("the identity provider cannot be reached", code="provider-unreachable") from error
    if status >= 500:
        raise Unavailable("the identity provider cannot be reached", code="provider-unreachable")
    if status != httpx.codes.OK:
        _log.warning("code not redeemed", status=status)
        raise LoginRefused("the provider does not take this code")
    try:
        said = httpx.Response(200, content=body).json()
    except ValueError as error:
        raise LoginRefused("the provider did not say who it is") from error
    if not isinstance(said, Mapping):
        raise LoginRefused("the provider did not say who it is")
    return said


def _with(url: str, more: Mapping[str, str]) -> str:
    """Return a URL with more parameters; it may have some of its own (RFC 6749, 3.1)."""
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, urlencode(more)]))
    return urlunsplit(parts._replace(query=query, fragment=""))
