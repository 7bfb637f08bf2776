"""What a key looks like, and which roles may do what."""

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.auth import tokens
from app.auth.scopes import ROLES, Scope, of_roles


def test_a_key_has_the_form_that_scanners_know() -> None:
    token = tokens.mint()
    assert re.fullmatch(r"lethe_[0-9A-Za-z]{38}", token)
    assert tokens.well_formed(token)
    assert token != tokens.mint()


def test_the_checksum_worked_by_hand() -> None:
    # zlib.crc32(b"0" * 32) == 0x184B2AD1? computed once with the standard library and written down.
    number = zlib.crc32(b"0" * 32)
    digits = [tokens.ALPHABET[number // 62**power % 62] for power in range(5, -1, -1)]
    assert tokens.checksum("0" * 32) == "".join(digits)


@given(st.integers(6, 43), st.sampled_from(tokens.ALPHABET))
def test_a_mistyped_character_is_noticed(place: int, character: str) -> None:
    token = "lethe_" + "a1B2" * 8 + tokens.checksum("a1B2" * 8)
    changed = token[:place] + character + token[place + 1 :]
    assert tokens.well_formed(changed) == (changed == token)


@pytest.mark.parametrize("text", ["", "lethe_", "ada@example.org", "lethe_" + "é" * 38, "x" * 5_000])
def test_anything_else_is_no_key(text: str) -> None:
    assert not tokens.well_formed(text)


def test_whoever_hands_out_keys_cannot_approve() -> None:
    assert Scope.KEYS_MANAGE in ROLES["admin"]
    assert Scope.REQUESTS_REVIEW not in ROLES["admin"]
    assert not any({Scope.KEYS_MANAGE, Scope.REQUESTS_REVIEW} <= scopes for scopes in ROLES.values())


def test_only_the_privacy_officer_sees_who_somebody_is() -> None:
    assert [name for name, scopes in ROLES.items() if Scope.REQUESTS_READ_PII in scopes] == [
        "privacy_officer"
    ]


def test_roles_add_up() -> None:
    assert of_roles(["intake", "viewer"]) == ROLES["intake"] | ROLES["viewer"]
