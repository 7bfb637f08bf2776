"""Tags: which a caller may name, how strong, and what is no tag at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Conflict
from app.http import preconditions, watching


@pytest.mark.parametrize(
    ("header", "versions"),
    [
        ("*", None),
        (" * ", None),
        ('"v3"', {3}),
        ('W/"v3"', {3}),
        ('"v3", W/"v17"', {3, 17}),
        ('"v3x"', set()),
        ("v3", set()),
        ('"v"', set()),
        ('"v99999999999"', set()),
        ("", set()),
    ],
)
def test_which_versions_are_expected(header: str, versions: set[int] | None) -> None:
    found = preconditions.expected(header)
    assert (None if found is None else set(found)) == versions


def test_who_says_nothing_is_asked() -> None:
    with pytest.raises(Conflict, match="If-Match") as refused:
        preconditions.expected(None)
    assert refused.value.code == "precondition-required"


@given(st.integers(1, 2**31))
def test_a_tag_names_its_version(version: int) -> None:
    assert preconditions.expected(preconditions.tag(version)) == frozenset({version})
    assert preconditions.same(f"W/{preconditions.tag(version)}", preconditions.tag(version))
    assert not preconditions.same(preconditions.tag(version + 1), preconditions.tag(version))


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_weak_tags_are_the_same_for_the_same(one: list[str], other: list[str]) -> None:
    tags = preconditions.weak_tag(*one), preconditions.weak_tag(*other)
    assert preconditions.same(*tags) == ("\x00".join(one) == "\x00".join(other))


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0),
        ("wait=10", 10),
        ("wait=900", 25),
        ("respond-async, wait=3", 3),
        ("return=minimal; foo=1, WAIT = 4", 4),
        ('wait="5"', 5),
        ("wait=-1", 0),
        ("wait=ten", 0),
        ("wait", 0),
        ("wait=١", 0),
        ("wait=" + "9" * 100, 25),
    ],
)
def test_how_long_to_wait(prefer: str | None, seconds: int) -> None:
    assert watching._wait(prefer) == seconds
