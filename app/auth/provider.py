"""Tokens of the customer's own identity provider, checked against its published keys.

    Provider.of(settings, clock)      None where no issuer is named
    provider.read(token)              -> Shown: who it is for, a person or a machine, and what they may do
    provider.read_identity(token)     -> Shown: who has just logged in, by an ID token (`app.auth.oidc`)
    provider.read_logout(token)       -> Left: who has left there, and so has left here

A token is a JWT (RFC 7519) as RFC 9068 profiles it: `iss`, `aud`, `exp` and `sub` must be there, and
`typ` must say that it is an access token, for an ID token opens nothing. Only signatures by a private
key count (RS256, PS256, ES256, EdDSA), by a key whose kind fits (RFC 8725, 3.1): a secret that both
sides know could be used by either.

What somebody may do is what the token's `scope` names of our scopes, what its roles stand for, or,
where both are there, what both allow. Whether a token is a person's is read off a claim that only
people's tokens bear: an approval that a machine gives is none.

The provider's keys are fetched when they are first needed and anew after an hour; sooner where a token
names one that is unknown, but not twice within five minutes, whatever is sent. Where the provider is
away, the keys that it had count for a day.
"""

import hmac
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from app.auth.scopes import ROLES, Scope, of_roles
from app.auth.service import Left, Shown, Unauthenticated
from app.clock import Clock
from app.config import Settings
from app.errors import Unavailable

ALGORITHMS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
"""What may sign, and the kind of its key (RFC 7518, RFC 8037)."""
TOKEN_BYTES_MAX = 16 * 1024
LEEWAY = timedelta(seconds=30)
"""Clocks differ."""
FETCH_SECONDS = 5.0
KEYS_BYTES_MAX = 1024 * 1024
REFETCH_AFTER = timedelta(hours=1)
REFETCH_LEAST = timedelta(minutes=5)
KEYS_STALE_MAX = timedelta(days=1)
LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
REFUSED = "this access token is not valid here"

Fetch = Callable[[str], Any]
"""A URL -> the JSON found there; whatever it raises means that there is none now."""


def fetch(url: str) -> Any:
    """Fetch a small JSON document, from the place that was named and no other."""
    with httpx.stream("GET", url, timeout=FETCH_SECONDS, follow_redirects=False) as answer:
        answer.raise_for_status()
        body = b""
        for part in answer.iter_bytes():
            body += part
            if len(body) > KEYS_BYTES_MAX:
                raise ValueError("a provider's keys are not that long")
    return httpx.Response(200, content=body).json()


def private(url: str) -> bool:
    """Return whether nobody between us and a URL can read or write: by https, or on this computer."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"127.0.0.1", "::1", "localhost"}


@dataclass
class Keys:
    """The provider's public keys, as it published them last."""

    issuer: str
    url: str | None
    """Where they are; unset, where the provider's own description says (OpenID Connect Discovery 1.0)."""
    clock: Clock
    fetch: Fetch = fetch
    _keys: Sequence[Mapping[str, Any]] = ()
    _fetched: datetime | None = None
    _tried: datetime | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def named(self, kid: str | None, algorithm: str) -> Mapping[str, Any] | None:
        """Return the key of this name that can have signed so, if the provider has it.

        Raises:
            Unavailable: if no keys could be had for a day, so that nothing can be told of a token.
        """
        with self._lock:
            if self._older_than(self._fetched, REFETCH_AFTER):
                self._refresh()
            if (found := self._find(kid, algorithm)) is None:
                self._refresh()
                found = self._find(kid, algorithm)
            if self._older_than(self._fetched, KEYS_STALE_MAX):
                raise Unavailable("the identity provider cannot be reached", code="provider-unreachable")
            return found

    def _older_than(self, instant: datetime | None, age: timedelta) -> bool:
        return instant is None or self.clock() - instant > age

    def _refresh(self) -> None:
        if not self._older_than(self._tried, REFETCH_LEAST):
            return
        self._tried = self.clock()
        try:
            keys = self.fetch(self.url or self._published())["keys"]
            self._keys = [key for key in keys if isinstance(key, Mapping)]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return  # those it had count on, for their time
        self._fetched = self._tried

    def _published(self) -> str:
        described = self.fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if described["issuer"] != self.issuer:
            raise ValueError("it describes another provider")
        return str(described["jwks_uri"])

    def _find(self, kid: str | None, algorithm: str) -> Mapping[str, Any] | None:
        fitting = [
            key
            for key in self._keys
            if key.get("kty") == ALGORITHMS[algorithm]
            and key.get("use", "sig") == "sig"
            and key.get("alg", algorithm) == algorithm
            and (kid is None or key.get("kid") == kid)
        ]
        # Without a name it must be clear which one is meant.
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One identity provider, and what its tokens must be like."""

    issuer: str
    audience: str
    token_type: str
    roles_claim: str
    name_claim: str
    person_claim: str
    keys: Keys
    clock: Clock

    @classmethod
    def of(cls, settings: Settings, *, clock: Clock) -> "Provider | None":
        """Return the provider that the settings name, if they name one.

        Raises:
            ValueError: if its keys would come over a line that anyone can write on.
        """
        if settings.oidc_issuer is None:
            return None
        for url in (settings.oidc_issuer, settings.oidc_keys_url or settings.oidc_issuer):
            if not private(url):
                raise ValueError("an identity provider's keys are fetched by https: LETHE_OIDC_...")
        return cls(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience or settings.public_url,
            token_type=settings.oidc_typ,
            roles_claim=settings.oidc_roles_claim,
            name_claim=settings.oidc_name_claim,
            person_claim=settings.oidc_person_claim,
            keys=Keys(settings.oidc_issuer, settings.oidc_keys_url, clock),
            clock=clock,
        )

    def read(self, token: str) -> Shown:
        """Return whom a token is for.

        Raises:
            Unauthenticated: if it is not valid, and why is nobody's business but its issuer's.
            Unavailable: if the provider's keys cannot be had.
        """
        claims = self._valid(token, audience=self.audience, is_typed=self._is_access_token)
        return self._shown(
            claims, person=claims.get(self.person_claim) is not None, scopes=self._scopes(claims)
        )

    def read_identity(self, token: str, *, client_id: str, nonce: str) -> Shown:
        """Return the person of an ID token (OpenID Connect Core 1.0, 3.1.3.7); what they may do, roles say.

        Raises:
            Unauthenticated: if it is not valid, not for us, or of another login than this one.
            Unavailable: if the provider's keys cannot be had.
        """
        claims = self._valid(token, audience=client_id, is_typed=_is_identity_token)
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        party = claims.get("azp", None if several else client_id)
        said = claims.get("nonce")
        fresh = isinstance(said, str) and hmac.compare_digest(said.encode(), nonce.encode())
        if party != client_id or not fresh or _instant(claims.get("iat")) is None:
            raise Unauthenticated(REFUSED)
        return self._shown(claims, person=True, scopes=frozenset(of_roles(self._roles(claims))))

    def read_logout(self, token: str, *, client_id: str) -> Left:
        """Return of whom a logout token says that they left (OpenID Connect Back-Channel Logout 1.0, 2.6).

        It must name the person: of which browser it speaks (`sid`) we do not keep, so all of theirs end.

        Raises:
            Unauthenticated: if it is not valid, not for us, or no logout token.
            Unavailable: if the provider's keys cannot be had.
        """
        claims = self._valid(token, audience=client_id, is_typed=_is_logout_token)
        happened, said_at = claims.get("events"), _instant(claims.get("iat"))
        if not isinstance(happened, Mapping) or not isinstance(happened.get(LOGOUT), Mapping):
            raise Unauthenticated(REFUSED)
        # What has a nonce is an ID token, which anybody may have who was ever logged in.
        if said_at is None or "nonce" in claims or not isinstance(claims.get("jti"), str):
            raise Unauthenticated(REFUSED)
        return Left(issuer=self.issuer, subject=claims["sub"], said_at=said_at + LEEWAY)

    def _shown(self, claims: Mapping[str, Any], *, person: bool, scopes: frozenset[str]) -> Shown:
        name = claims.get(self.name_claim)
        return Shown(
            issuer=self.issuer,
            subject=claims["sub"],
            person=person,
            name=name if isinstance(name, str) else None,
            scopes=scopes,
            roles=self._roles(claims) if self.roles_claim in claims else None,
            issued_at=_instant(claims.get("iat")),
        )

    def _valid(self, token: str, *, audience: str, is_typed: Callable[[object], bool]) -> Mapping[str, Any]:
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated(REFUSED)
        try:
            return self._checked(token, audience, is_typed)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise Unauthenticated(REFUSED) from error

    def _checked(self, token: str, audience: str, is_typed: Callable[[object], bool]) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS or not is_typed(header.get("typ")):
            raise Unauthenticated(REFUSED)
        key = self.keys.named(header.get("kid"), algorithm)
        if key is None:
            raise Unauthenticated(REFUSED)
        claims: Mapping[str, Any] = jwt.decode(
            token,
            jwt.PyJWK.from_dict(dict(key), algorithm=algorithm),
            algorithms=[algorithm],
            audience=audience,
            issuer=self.issuer,
            # The times are held against our clock, below.
            options={
                "require": ["exp", "iss", "aud", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        now = self.clock().timestamp()
        begins, ends = claims.get("nbf", now), claims["exp"]
        if not isinstance(claims["sub"], str) or not claims["sub"].encode():  # half a character has none
            raise Unauthenticated(REFUSED)
        if isinstance(begins, bool) or isinstance(ends, bool):
            raise TypeError("a time is a number")
        if not begins - LEEWAY.total_seconds() <= now < ends + LEEWAY.total_seconds():
            raise Unauthenticated(REFUSED)
        return claims

    def _is_access_token(self, named: object) -> bool:
        """Return whether a token says so; `application/` may be left out (RFC 7515, 4.1.9)."""
        if not self.token_type:
            return True
        return isinstance(named, str) and named.lower().removeprefix("application/") == self.token_type

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        delegated = frozenset(_words(claims.get("scope"))) & frozenset(Scope)
        allowed = frozenset[str](of_roles(self._roles(claims)))
        return delegated & allowed if delegated and allowed else delegated | allowed

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return which of our roles a token names."""
        return frozenset(_words(claims.get(self.roles_claim))) & frozenset(ROLES)


def _is_identity_token(named: object) -> bool:
    """Return whether a token may be an ID token: one that says what else it is, is none (RFC 8725, 3.11)."""
    return named is None or (isinstance(named, str) and named.lower().removeprefix("application/") == "jwt")


def _is_logout_token(named: object) -> bool:
    """Return whether a token may be a logout token; older providers leave out what it is."""
    plain = named.lower().removeprefix("application/") if isinstance(named, str) else named
    return plain in {None, "jwt", "logout+jwt"}


def _instant(seconds: object) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 2**40:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
