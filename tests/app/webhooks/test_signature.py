"""Standard Webhooks: the published vector, the public library as oracle, and that nothing else passes."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.webhooks import signature
from app.webhooks.signature import Keys, NotAuthentic

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
# RFC 8032, 7.1, test 1.
PRIVATE = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_the_vector_of_the_specification() -> None:
    message = signature.signed(ID, AT, BODY)
    assert message == b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    found = signature.v1(signature.read_secret(SECRET), message)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_vector_of_the_design_for_v1a() -> None:
    found = signature.v1a(PRIVATE, signature.signed(ID, AT, BODY))
    assert found == (
        "v1a,fldxM4gAKugP6nnt1hdz3sgGfZ6d99nzrMFnZOELIxbzEHoVmAb2ADpkJK7zgPePmPsle0zV9jSeGlHFG2NVAw=="
    )
    assert Keys(secret=b"x" * 32, private=PRIVATE).public == PUBLIC


def test_the_public_library_accepts_what_we_sign() -> None:
    keys, now = Keys.new(), int(datetime.now(UTC).timestamp())
    headers = signature.headers([keys], id=ID, timestamp=now, body=BODY)
    assert Webhook(signature.shown_secret(keys.secret)).verify(BODY, headers) == {"test": 2432232314}


@given(body=st.binary(max_size=2000).filter(lambda body: body == body.decode("utf-8", "ignore").encode()))
def test_the_public_library_signs_as_we_do(body: bytes) -> None:
    secret = signature.read_secret(SECRET)
    theirs = Webhook(SECRET).sign(ID, datetime.fromtimestamp(AT, UTC), body.decode())
    assert signature.v1(secret, signature.signed(ID, AT, body)) == theirs


def test_while_keys_are_changed_both_check() -> None:
    new, old, now = Keys.new(), Keys.new(), int(datetime.now(UTC).timestamp())
    headers = signature.headers([new, old], id=ID, timestamp=now, body=BODY)
    assert [each.partition(",")[0] for each in headers[signature.SIGNATURE].split(" ")] == [
        "v1", "v1a", "v1", "v1a",
    ]  # fmt: skip
    for keys in (new, old):
        Webhook(signature.shown_secret(keys.secret)).verify(BODY, headers)
        signature.check(
            headers[signature.SIGNATURE], id=ID, timestamp=now, body=BODY, now=now, public=keys.public
        )
    with pytest.raises(WebhookVerificationError):
        Webhook(signature.shown_secret(Keys.new().secret)).verify(BODY, headers)


@pytest.mark.parametrize("known", ["secret", "public"])
@pytest.mark.parametrize(
    "changed",
    [{"body": BODY + b" "}, {"id": "msg_other"}, {"timestamp": AT + 1}, {"now": AT + 301}, {"now": AT - 301}],
)
def test_what_was_changed_or_is_old_is_not_authentic(known: str, changed: dict[str, object]) -> None:
    keys = Keys(secret=signature.read_secret(SECRET), private=PRIVATE)
    header = signature.headers([keys], id=ID, timestamp=AT, body=BODY)[signature.SIGNATURE]
    given: dict[str, object] = {
        "id": ID,
        "timestamp": AT,
        "body": BODY,
        "now": AT,
        known: getattr(keys, known),
    }
    signature.check(header, **given)  # type: ignore[arg-type]  # the cases say what each is
    with pytest.raises(NotAuthentic):
        signature.check(header, **(given | changed))  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("header", ["", "v1", "v1a,!", "v1a,AAAA", "v2,AAAA", "v1,é"])
def test_a_header_of_nonsense_is_not_authentic(header: str) -> None:
    keys = Keys(secret=signature.read_secret(SECRET), private=PRIVATE)
    with pytest.raises(NotAuthentic):
        signature.check(
            header, id=ID, timestamp=AT, body=BODY, now=AT, secret=keys.secret, public=keys.public
        )


def test_keys_are_shown_as_the_specification_has_it_and_read_back() -> None:
    keys = Keys.new()
    assert signature.read_secret(signature.shown_secret(keys.secret)) == keys.secret
    assert signature.read_public(signature.shown_public(keys.public)) == keys.public
    assert repr(keys) == "Keys()"
    for wrong in ("whpk_" + base64.b64encode(keys.secret).decode(), "whsec_AAAA", "whsec_*"):
        with pytest.raises(ValueError, match=r"."):
            signature.read_secret(wrong)


def test_what_a_key_service_could_not_sign_is_not_sent() -> None:
    with pytest.raises(AssertionError):
        signature.signed(ID, AT, b"x" * 4096)
