"""Calls outwards: only to public addresses, to the one that was looked at, with one deadline."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings
from app.errors import Invalid
from app.http import outbound
from app.http.outbound import Answer, Reach
from tests.app.intake.authority import Authority
from tests.app.webhooks.receivers import Receiver, receiver

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)

INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254",  # metadata of most clouds
    "100.100.100.200", "192.0.0.192", "168.63.129.16",  # of others
    "100.64.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "2002:7f00:1::", "2001:db8::1",
    "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside(address: str) -> None:
    assert not outbound.is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_outside(address: str) -> None:
    assert outbound.is_public(address)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_what_it_maps(address: ipaddress.IPv4Address) -> None:
    assert outbound.is_public(f"::ffff:{address}") == outbound.is_public(str(address))


def leads_to(*addresses: str) -> outbound.Resolve:
    return lambda _host, _port: list(addresses)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["1.1.1.1", "fd00::1"], []],
)
def test_one_inner_address_among_many_refuses_the_call(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise AssertionError("nothing is connected to")

    monkeypatch.setattr(socket, "create_connection", connect)
    answer = outbound.post("https://evil.example/x", b"{}", {}, reach=Reach(resolve=leads_to(*addresses)))
    assert answer.error == ("address-not-public" if addresses else "name-not-resolved")
    assert answer.status is None


def test_the_name_is_resolved_once_and_the_address_that_was_looked_at_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that answers with a public address first and with ours next gains nothing."""
    asked: list[str] = []
    called: list[object] = []

    def rebinding(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["1.1.1.1"] if len(asked) == 1 else ["127.0.0.1"]

    def connect(address: object, *_: object, **__: object) -> socket.socket:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    answer = outbound.post("https://rebind.example/", b"{}", {}, reach=Reach(resolve=rebinding))
    assert answer.error == "connection-failed"
    assert (asked, called) == (["rebind.example"], [("1.1.1.1", 443)])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://hooks.example/", "url-not-https"),
        ("ftp://hooks.example/", "url-not-https"),
        ("file:///etc/passwd", "url-not-https"),
        ("https://", "url-malformed"),
        ("https://user:secret@hooks.example/", "url-malformed"),
        ("https://hooks.example/#part", "url-malformed"),
        ("https://hooks.example:99999/", "url-malformed"),
        ("https://hooks.example/ x", "url-malformed"),
        ("https://hooks.example/\r\nHost: inner", "url-malformed"),
        ("https://hooks.exämple/", "url-malformed"),
        ("https://hooks.example\\@127.0.0.1/", "url-malformed"),
        ("https://[::1]/", "address-not-public"),
        ("https://127.0.0.1/", "address-not-public"),
        ("https://169.254.169.254/latest/meta-data", "address-not-public"),
        ("https://" + "a" * 2100, "url-malformed"),
        ("https://hooks.example/lethe", None),
        ("https://1.1.1.1:8443/lethe", None),
    ],
)
def test_urls_that_can_never_be_called(url: str, code: str | None) -> None:
    assert Reach().refusal(url) == code
    if code is not None:
        with pytest.raises(Invalid) as refused:
            outbound.require(url, Reach(), pointer="/url")
        assert refused.value.errors == (("/url", code),)
        assert outbound.post(url, b"", {}, reach=Reach()).error == code


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"])
def test_an_address_in_disguise_is_seen_through(host: str) -> None:
    assert outbound.post(f"https://{host}/", b"{}", {}, reach=Reach()).error == "address-not-public"


def test_a_closed_network_is_its_hosts_and_nothing_else(tmp_path: Path) -> None:
    reach = Reach.of(Settings(home=tmp_path, outbound_hosts="hooks.inner, 10.0.0.7"))
    assert reach.refusal("http://hooks.inner:8080/x") is None
    assert reach.refusal("https://10.0.0.7/x") is None
    assert reach.refusal("https://hooks.example/") == "host-not-listed"


@pytest.fixture
def plain() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def listed() -> Reach:
    return Reach(hosts=frozenset({"127.0.0.1", "localhost", "hooks.test"}), resolve=leads_to("127.0.0.1"))


def test_a_call_arrives_whole_and_says_for_whom(plain: Receiver, listed: Reach) -> None:
    url = plain.url.replace("127.0.0.1", "hooks.test") + "/a?b=c"
    answer = outbound.post(url, b'{"x":1}', {"Webhook-Id": "msg_1"}, reach=listed)
    assert (answer.status, answer.error, answer.taken) == (204, None, True)
    [call] = plain.calls
    assert (call.path, call.body, call.headers["webhook-id"]) == ("/a?b=c", b'{"x":1}', "msg_1")
    assert call.headers["host"] == url.removeprefix("http://").partition("/")[0]


def test_no_redirect_is_followed(plain: Receiver, listed: Reach) -> None:
    with receiver() as other:
        plain.answers(307, Location=f"{other.url}/inner")
        answer = outbound.post(plain.url, b"{}", {}, reach=listed)
        assert (answer.status, answer.taken, other.calls) == (307, False, [])


def test_proxies_of_the_environment_are_not_used(
    plain: Receiver, listed: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert outbound.post(plain.url, b"{}", {}, reach=listed).taken


def test_the_certificate_is_the_names_though_the_address_is_pinned(tmp_path: Path) -> None:
    authority = Authority.new()
    with receiver(tls=authority.server("hooks.test", tmp_path), host="hooks.test") as found:
        trusting = ssl.create_default_context(cadata=authority.pem.decode())
        reach = Reach(
            hosts=frozenset({"hooks.test", "other.test"}), tls=trusting, resolve=leads_to("127.0.0.1")
        )
        assert outbound.post(found.url, b"{}", {}, reach=reach).status == 204
        # The same address by a name that the certificate is not for.
        other = found.url.replace("hooks.test", "other.test")
        assert outbound.post(other, b"{}", {}, reach=reach).error == "tls-failed"
        # An authority that nobody trusts.
        reach = Reach(hosts=frozenset({"hooks.test"}), resolve=leads_to("127.0.0.1"))
        assert outbound.post(found.url, b"{}", {}, reach=reach).error == "tls-failed"
        assert len(found.calls) == 1


def test_an_authority_of_ones_own_is_a_setting(tmp_path: Path) -> None:
    authority = Authority.new()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    settings = Settings(home=tmp_path, outbound_hosts="localhost", outbound_authorities=tmp_path / "ca.pem")
    with receiver(tls=authority.server("localhost", tmp_path), host="localhost") as found:
        assert outbound.post(found.url, b"{}", {}, reach=Reach.of(settings)).status == 204


def test_the_second_address_is_tried_where_the_first_refuses(plain: Receiver) -> None:
    reach = Reach(hosts=frozenset({"hooks.test"}), resolve=leads_to("127.0.0.9", "127.0.0.1"))
    assert outbound.post(plain.url.replace("127.0.0.1", "hooks.test"), b"{}", {}, reach=reach).taken


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Return what serves one connection by hand, and yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(behave: Callable[[socket.socket], None]) -> str:
        def one() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    behave(connection)
                except OSError:
                    return

        threads.append(threading.Thread(target=one, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield serve
    listener.close()
    for thread in threads:
        thread.join(5)


def test_who_drips_bytes_gains_nothing(
    raw: Callable[[Callable[[socket.socket], None]], str], listed: Reach
) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(200):
            connection.sendall(f"X-{number}: y\r\n".encode())
            time.sleep(0.05)

    started = time.monotonic()
    answer = outbound.post(raw(drip), b"{}", {}, reach=listed, seconds=0.4)
    assert answer.error == "timeout"
    assert time.monotonic() - started < 3


def test_an_endless_answer_is_not_read(
    raw: Callable[[Callable[[socket.socket], None]], str], listed: Reach
) -> None:
    def pour(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    assert outbound.post(raw(pour), b"{}", {}, reach=listed, seconds=5).taken


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (lambda connection: connection.sendall(b"SSH-2.0-x\r\n\r\n"), "protocol-error"),
        (lambda connection: connection.close(), "connection-failed"),
    ],
)
def test_what_is_no_answer(
    raw: Callable[[Callable[[socket.socket], None]], str],
    listed: Reach,
    behave: Callable[[socket.socket], None],
    error: str,
) -> None:
    found = outbound.post(raw(behave), b"{}", {}, reach=listed, seconds=2).error
    assert found in {error, "protocol-error", "connection-failed"}


# When it is tried again ------------------------------------------------------------------------------


def test_the_schedule() -> None:
    waits = [
        outbound.next_attempt(number, Answer(status=500), at=AT, jitter=lambda: 0.0)
        for number in range(1, 11)
    ]
    hours = [(each - AT) / timedelta(hours=1) if each else None for each in waits]
    assert hours == [5 / 3600, 5 / 60, 0.5, 2, 5, 10, 14, 20, 24, None]


@pytest.mark.parametrize("number", range(1, 10))
def test_the_jitter_is_a_tenth_at_most(number: int) -> None:
    plain = outbound.RETRY_AFTER[number - 1]
    for _ in range(20):
        found = outbound.next_attempt(number, Answer(error="timeout"), at=AT)
        assert found is not None
        assert plain * 0.9 <= found - AT <= plain * 1.1


@pytest.mark.parametrize(
    ("said", "wait"),
    [
        (timedelta(seconds=120), timedelta(seconds=120)),
        (timedelta(seconds=1), timedelta(seconds=5)),
        (timedelta(days=9), timedelta(hours=24)),
    ],
)
def test_a_receiver_may_ask_for_patience_within_bounds(said: timedelta, wait: timedelta) -> None:
    answer = Answer(status=503, retry_after=said)
    assert outbound.next_attempt(1, answer, at=AT, jitter=lambda: 0.0) == AT + wait


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120), ("soon", None), ("-5", None), ("99999999999", 86_400)]
)
def test_retry_after_as_seconds(plain: Receiver, listed: Reach, header: str, seconds: int | None) -> None:
    plain.answers(503, Retry_After=header)
    found = outbound.post(plain.url, b"{}", {}, reach=listed).retry_after
    assert found == (None if seconds is None else timedelta(seconds=seconds))


def test_retry_after_as_a_date(plain: Receiver, listed: Reach) -> None:
    plain.answers(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")
    assert outbound.post(plain.url, b"{}", {}, reach=listed).retry_after == timedelta()
