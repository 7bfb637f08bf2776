"""Calls to addresses that somebody else chose: webhooks and callbacks. Safe against being sent inwards.

    name ──resolved once──▶ addresses ──all public?──▶ one of them ──connected to──▶ TLS for the name

Whoever may name a URL could name one of ours: a metadata service, a database, a router. So the name is
resolved once per attempt, the call is refused unless *every* address is public, and the connection
goes to the address that was looked at: to check a name and then to connect by name is a race. The
URL stays as it is, so `Host`, SNI and the certificate are those of the name. No redirect is followed,
no proxy and no environment variable is used, the answer's body is not read, and the whole call has
one deadline.

`LETHE_OUTBOUND_HOSTS` is for closed networks: if it is set, the hosts in it are called, wherever they
are and also by plain http, and no others. Knows nothing of what is sent.
"""

import email.utils
import ipaddress
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpcore
import httpx

from app.config import Settings
from app.errors import Invalid

SECONDS = 15.0
URL_CHARACTERS_MAX = 2048
CONNECTIONS_TRIED_MAX = 2
DEFAULT_PORTS = {"https": 443, "http": 80}

RETRY_AFTER: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""How long after each failed attempt the next one comes; after the last there is none."""
ATTEMPTS_MAX = len(RETRY_AFTER) + 1
JITTER = 0.1
WAIT_MAX = timedelta(hours=24)
"""A receiver that asks for more patience than this gets this."""

_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        # What `is_global` of some Pythons lets through: translations, relays, retired and special ranges.
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/23",
        "2002::/16",
        "fec0::/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        # Public by number, and the inside of somebody's cloud all the same.
        "168.63.129.16/32",
    )
)
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")

Resolve = Callable[[str, int], Sequence[str]]
"""From a name and a port to addresses; OSError if there are none."""


def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of a name, as the system resolves it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(address: str) -> bool:
    """Return whether an address is one of the open internet's, and not of any inside."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _GLOBAL_UNICAST:
            return False
    inside = ip.is_multicast or any(ip in each for each in _NOT_PUBLIC if each.version == ip.version)
    return ip.is_global and not inside


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where calls may go: the public internet, or the hosts of a closed network and nowhere else."""

    hosts: frozenset[str] = frozenset()
    tls: ssl.SSLContext = field(default_factory=lambda: _tls(None), repr=False)
    resolve: Resolve = resolve

    @classmethod
    def of(cls, settings: Settings) -> "Reach":
        """Return what the settings allow."""
        hosts = frozenset(each.strip().lower() for each in settings.outbound_hosts.split(",") if each.strip())
        authorities = settings.outbound_authorities
        return cls(hosts=hosts, tls=_tls(None if authorities is None else str(authorities)))

    def refusal(self, url: str) -> str | None:
        """Return why a URL could never be called, or None; resolves nothing."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            return "url-malformed"
        code = _malformed(url, parts)
        if code is not None or not host:
            return code or "url-malformed"
        if self.hosts:
            return None if host in self.hosts else "host-not-listed"
        if parts.scheme != "https":
            return "url-not-https"
        if port == 0 or (_is_address(host) and not is_public(host)):
            return "address-not-public"
        return None

    def addresses(self, host: str, port: int) -> Sequence[str]:
        """Return where a name leads; `_Refused` unless the call may go to every one of them."""
        try:
            found = self.resolve(host, port)
        except (OSError, UnicodeError):
            raise _Refused("name-not-resolved") from None
        if not found:
            raise _Refused("name-not-resolved")
        if not self.hosts and not all(is_public(each) for each in found):
            raise _Refused("address-not-public")
        return found


def require(url: str, reach: Reach, *, pointer: str) -> None:
    """Refuse a URL that could never be called; what it resolves to is looked at with each call."""
    code = reach.refusal(url)
    if code is not None:
        raise Invalid("this URL cannot be called", errors=[(pointer, code)])


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a call ended: a status, or why there is none; codes, and nothing of what was answered."""

    status: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None
    milliseconds: int = 0

    @property
    def taken(self) -> bool:
        """Return whether the receiver says that it has it."""
        return self.status is not None and 200 <= self.status < 300


def post(
    url: str, body: bytes, headers: Mapping[str, str], *, reach: Reach, seconds: float = SECONDS
) -> Answer:
    """Send a body once; every way in which that can end is an answer."""
    started = time.monotonic()

    def answer(**how: Any) -> Answer:
        return Answer(milliseconds=round((time.monotonic() - started) * 1000), **how)

    refused = reach.refusal(url)
    if refused is not None:
        return answer(error=refused)
    parts = urlsplit(url)
    assert parts.hostname is not None, "a URL without a host was refused"
    try:
        found = reach.addresses(parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme])
        network = _Pinned(found[:CONNECTIONS_TRIED_MAX], started + seconds)
        status, retry_after = _send(url, body, headers, network, reach.tls)
    except _Refused as refusal:
        return answer(error=refusal.code)
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        return answer(error=_code(error))
    return answer(status=status, retry_after=retry_after)


def next_attempt(
    attempts: int, answer: Answer, *, at: datetime, jitter: Callable[[], float] | None = None
) -> datetime | None:
    """Return when to try again after so many attempts of a round; None if that was the last.

    A receiver's `Retry-After` is obeyed where it asks for more patience than we have anyway.
    """
    assert attempts >= 1
    if attempts >= ATTEMPTS_MAX:
        return None
    wait = RETRY_AFTER[attempts - 1] * (1 + JITTER * (jitter or _spread)())
    return at + max(wait, min(answer.retry_after or timedelta(), WAIT_MAX))


def _spread() -> float:
    return random.SystemRandom().uniform(-1.0, 1.0)


# How one call is made --------------------------------------------------------------------------------


class _Refused(Exception):  # noqa: N818  it is named for the fact
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _send(
    url: str, body: bytes, headers: Mapping[str, str], network: "_Pinned", tls: ssl.SSLContext
) -> tuple[int, timedelta | None]:
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), network.left())
    with (
        httpcore.ConnectionPool(ssl_context=tls, network_backend=network, max_connections=1) as pool,
        pool.stream(
            "POST",
            url,
            headers=[("Host", _host(url)), ("Content-Length", str(len(body))), *headers.items()],
            content=body,
            extensions={"timeout": timeouts},
        ) as response,
    ):
        said = {name.lower(): value for name, value in response.headers}
        return response.status, _patience(said.get(b"retry-after"))


def _host(url: str) -> str:
    """Return the Host header: the name as it stands in the URL, and the port if it is not the usual one."""
    parts = urlsplit(url)
    host = str(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    usual = parts.port is None or parts.port == DEFAULT_PORTS[parts.scheme]
    return host if usual else f"{host}:{parts.port}"


def _patience(value: bytes | None) -> timedelta | None:
    """Return what `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3); nonsense is nothing."""
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), WAIT_MAX)
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until.replace(tzinfo=UTC) if until.tzinfo is None else until
    return max(timedelta(), min(until - datetime.now(UTC), WAIT_MAX))


class _Pinned(httpcore.NetworkBackend):
    """Connects to the addresses that were looked at, whatever the name leads to by now."""

    def __init__(self, addresses: Sequence[str], deadline: float) -> None:
        self.addresses = addresses
        self.deadline = deadline
        self._system = httpcore.SyncBackend()

    def left(self) -> float:
        """Return the seconds until the deadline; raise once it has passed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ConnectTimeout
        return left

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  the name was resolved, once
        port: int,
        timeout: float | None = None,  # noqa: ARG002  the deadline is the call's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that can be connected to."""
        for address in self.addresses[:-1]:
            try:
                stream = self._system.connect_tcp(
                    address, port, self.left() / 2, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return _Hurried(stream, self)
        last = self.addresses[-1]
        return _Hurried(
            self._system.connect_tcp(last, port, self.left(), local_address, socket_options), self
        )


class _Hurried(httpcore.NetworkStream):
    """A stream whose every wait ends at the call's deadline: who drips bytes gains nothing."""

    def __init__(self, stream: httpcore.NetworkStream, network: _Pinned) -> None:
        self.stream = stream
        self.network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  the deadline is the call's
        return self.stream.read(max_bytes, self.network.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  the deadline is the call's
        self.stream.write(buffer, self.network.left())

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  the deadline is the call's
    ) -> httpcore.NetworkStream:
        return _Hurried(
            self.stream.start_tls(ssl_context, server_hostname, self.network.left()), self.network
        )

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def _tls(authorities: str | None) -> ssl.SSLContext:
    """Return the context that checks certificates: by the public authorities, and one's own."""
    context = httpx.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        context.load_verify_locations(authorities)
    return context


def _code(error: Exception) -> str:
    """Return the word for what went wrong between us and the receiver."""
    if isinstance(error, httpcore.TimeoutException | TimeoutError):
        return "timeout"
    if isinstance(error, httpcore.ProtocolError):
        return "protocol-error"
    tls = isinstance(error, ssl.SSLError) or isinstance(error.__cause__ or error.__context__, ssl.SSLError)
    return "tls-failed" if tls else "connection-failed"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _malformed(url: str, parts: SplitResult) -> str | None:
    """Return what is wrong with a URL as such."""
    if (
        len(url) > URL_CHARACTERS_MAX
        or not url.isascii()
        or not url.isprintable()
        or set(url) & set(' "<>\\')
    ):
        return "url-malformed"
    if parts.scheme not in DEFAULT_PORTS:
        return "url-not-https"
    # A user or a password in a URL ends up in lists and backups; a fragment is never sent.
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "url-malformed"
    return None
