"""RFC 8785: the published spellings, and what is refused."""

import hashlib

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from app.signing import canonical


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("333333333.33333329", b"333333333.3333333"),
        ("1E30", b"1e+30"),
        ("4.50", b"4.5"),
        ("2e-3", b"0.002"),
        ("0.000000000000000000000000001", b"1e-27"),
    ],
)
def test_the_library_prints_the_published_numbers(number: str, text: bytes) -> None:
    assert rfc8785.dumps(float(number)) == text


def test_keys_are_sorted_by_utf16_unit() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    published = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    encoded = canonical.encode(dict.fromkeys(keys, 0)).decode()
    assert encoded == "{" + ",".join(f'"{key}":0' for key in published).replace("\r", "\\r") + "}"


@pytest.mark.parametrize("value", [1.0, {"a": [{"b": 0.5}]}, (1, 2.0), float("nan"), 2**53, -(2**53), {1: 2}])
def test_what_has_no_one_spelling_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical.encode(value)


def test_a_digest_is_over_the_bytes() -> None:
    assert canonical.encode({"b": [True, None], "a": "é"}) == '{"a":"é","b":[true,null]}'.encode()
    assert canonical.digest({}) == hashlib.sha256(b"{}").hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_bytes_do_not_depend_on_the_order_of_keys(value: object) -> None:
    try:
        encoded = canonical.encode(value)
    except ValueError:
        return  # a lone surrogate has no UTF-8
    assert canonical.encode(turned(value)) == encoded


def turned(value: object) -> object:
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(list(value))}
    return [turned(each) for each in value] if isinstance(value, list) else value
