"""Canonical bytes and keyed hashes: published vectors, and properties that every spelling must keep."""

import unicodedata
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.records import content
from app.signing.canonical import encode

KEY = bytes(range(32))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_subject_vector() -> None:
    mac = content.subject_mac(KEY, "email", " Ada@Example.ORG")
    assert mac.hex() == "e80f862798e12c67bb4c514a3900f57177a8694f5ee6a3923c9c9cd42dc64c0d"


def test_the_content_vector() -> None:
    mac = content.content_mac(KEY, content.canonical("Ada said: hello."))
    assert mac.hex() == "c90e136dbfb39b14a14bc1e2f3ffbe4ac2a58fbb655b0a07021f038b30ac9e87"


def test_the_record_set_vector() -> None:
    records = [
        ("ds_b", "rec_9", "exempt:17.3.b"),
        ("ds_a", "rec_2", "erase"),
        ("ds_a", "rec_1", "erase"),
    ]
    digest = content.record_set_hash(["mod_1"], records)
    assert digest.hex() == "f91e70740ddf85be2c7c568ed55b8f2ac1382a1aada5d0f1577ab440a7d79aea"
    assert content.record_set_hash(["mod_1"], reversed(records)) == digest


def test_a_structured_record_is_the_jcs_of_its_content() -> None:
    """The bytes of the certificate's vector (a record, committed to under nonce 00..1f)."""
    record = content.canonical({"text": "Ada Lovelace lives at 12 St James's Square."})
    assert record == b'{"text":"Ada Lovelace lives at 12 St James\'s Square."}'
    committed = sha256(b"lethe/record/v1\0" + KEY + sha256(record).digest()).hexdigest()
    assert committed == "ed65cf7e5aaab20c8b660ea820d59e22549e0fb6857cebcffaae1f0a00df041c"


@given(st.dictionaries(st.sampled_from(["text", "prompt", "completion"]), TEXT))
def test_the_fast_encoding_is_rfc_8785(fields: dict[str, str]) -> None:
    normal = {name: content.text_form(text) for name, text in fields.items()}
    assert content.canonical(fields) == encode(normal)


@given(TEXT)
def test_the_text_form_is_one_spelling(text: str) -> None:
    form = content.text_form(text)
    assert content.text_form(form) == form
    assert unicodedata.is_normalized("NFC", form)
    assert "\r" not in form
    assert not form.startswith("\ufeff")


@pytest.mark.parametrize(
    ("one", "other"),
    [("a\r\nb\rc", "a\nb\nc"), ("\ufeffa", "a"), ("Zoe\u0308", "Zo\u00eb")],
)
def test_spellings_of_one_text_have_one_hash(one: str, other: str) -> None:
    assert content.canonical(one) == content.canonical(other)
    assert content.canonical({"text": one}) == content.canonical({"text": other})


def test_raw_bytes_are_left_alone() -> None:
    assert content.canonical(b"\xff\r\n") == b"\xff\r\n"


@pytest.mark.parametrize(
    ("type_", "value", "normal"),
    [
        ("email", " Ada@Example.ORG\n", "ada@example.org"),
        ("email", "a.b+c@example.org", "a.b+c@example.org"),
        ("email", "jos\u00e9@b\u00fccher.example", "jos\u00e9@xn--bcher-kva.example"),
        ("phone", "+44 (20) 7946-0018", "+442079460018"),
        ("phone", "+49\u00a030.1234/567", "+49301234567"),
        ("device_id", "  AB-12 ", "ab-12"),
        ("customer_id", " C-001 ", "C-001"),
        ("shoe_size", "46", "46"),
    ],
)
def test_normalisation(type_: str, value: str, normal: str) -> None:
    assert content.normalise(type_, value) == normal


@pytest.mark.parametrize(
    ("type_", "value", "code"),
    [
        ("email", "nobody", "email-form"),
        ("email", "@example.org", "email-form"),
        ("email", "a@", "email-form"),
        ("email", "a@\u2603\u200d.example", "email-form"),
        ("phone", "020 7946 0018", "phone-form"),
        ("phone", "+44 (0)20 7946 0018", "phone-form"),
        ("phone", "+0441234567", "phone-form"),
        ("phone", "+\u0664\u0664\u0661\u0662\u0663\u0664\u0665\u0666", "phone-form"),
        ("customer_id", "  ", "identifier-empty"),
    ],
)
def test_what_has_no_normal_form_is_refused_without_being_quoted(type_: str, value: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        content.normalise(type_, value)
    assert refused.value.code == code
    assert value.strip() == "" or value not in str(refused.value)


@given(st.sampled_from(["email", "device_id", "customer_id"]), TEXT)
def test_normalising_twice_changes_nothing(type_: str, value: str) -> None:
    try:
        normal = content.normalise(type_, value)
    except Invalid:
        return
    assert content.normalise(type_, normal) == normal


def test_addresses_that_differ_in_dots_are_two_people() -> None:
    assert content.subject_mac(KEY, "email", "a.b@x.org") != content.subject_mac(KEY, "email", "ab@x.org")


def test_the_type_separates_equal_values() -> None:
    assert content.subject_mac(KEY, "customer_id", "7") != content.subject_mac(KEY, "device_id", "7")


def test_an_identifier_that_came_hashed_meets_the_raw_one() -> None:
    digest = sha256(b"ada@example.org").hexdigest()
    assert content.subject_mac_of_digest(KEY, "email", digest) == content.subject_mac(
        KEY, "email", "ADA@example.org"
    )
    with pytest.raises(Invalid):
        content.subject_mac_of_digest(KEY, "email", digest[:32])
