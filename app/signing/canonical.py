"""One JSON, one byte string: RFC 8785, and no floats.

Numbers that are not integers are decimal strings, because languages print floats differently.
Knows no schema and no digest format but lowercase hex SHA-256.
"""

import hashlib
from collections.abc import Mapping

import rfc8785


def encode(value: object) -> bytes:
    """Return the RFC 8785 bytes of `value`; ValueError on a float, a foreign type, an integer beyond 2^53."""
    _refuse_floats(value)
    return rfc8785.dumps(value)  # type: ignore[arg-type]  # it checks the types itself and raises


def digest(value: object) -> str:
    """Return the lowercase hex SHA-256 of the canonical bytes."""
    return hashlib.sha256(encode(value)).hexdigest()


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise ValueError("a float has no one spelling; use a decimal string")  # noqa: TRY004  one error kind
    if isinstance(value, Mapping):
        for member in value.values():
            _refuse_floats(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _refuse_floats(member)
