"""Signed notes (C2SP `signed-note`): a text, a blank line, and who signed it.

    text LF
    LF
    U+2014 SP name SP base64(key id || signature) LF

    key id = SHA-256(name || 0x0A || kind || public key)[:4]
    vkey   = name + "+" + hex(key id) + "+" + base64(kind || public key)

Two kinds of Ed25519 key: a log's (0x01) signs the text; a witness's (0x04, C2SP `tlog-cosignature`)
signs the time with it, and its signature is `u64be(seconds) || signature` over

    cosignature/v1 LF
    time SECONDS LF
    text

A text means nothing before the signature of a key that one trusts was verified: `verified` is the one
way from a note to what it says. Knows no file, no clock and no tree.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LOG_KIND, WITNESS_KIND = 0x01, 0x04
KINDS = (LOG_KIND, WITNESS_KIND)
PUBLIC_BYTES, KEY_ID_BYTES, SIGNATURE_BYTES, TIME_BYTES = 32, 4, 64, 8
SIGNATURES_MAX = 100
NOTE_BYTES_MAX = 1_000_000
_DASH = "\N{EM DASH} "


class NoteRefused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A note or a key is malformed, or nobody signed it whom one trusts."""


class Signs(Protocol):
    """A private Ed25519 key, wherever it is."""

    def sign(self, message: bytes) -> bytes:
        """Return 64 bytes."""


@dataclass(frozen=True, kw_only=True)
class VerifierKey:
    """A public key with the name under which it signs."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Return the key that a vkey names; `NoteRefused` if its id is not that of name and key."""
        name, plus, rest = vkey.partition("+")
        digits, second_plus, material = rest.partition("+")
        if not (plus and second_plus and _is_name(name)):
            raise NoteRefused("a verifier key is name+id+key")
        raw = unbase64(material)
        if not raw or raw[0] not in KINDS or len(raw) != 1 + PUBLIC_BYTES:
            raise NoteRefused("a verifier key is an Ed25519 key of a log or of a witness")
        key = cls(name=name, kind=raw[0], public=raw[1:])
        if key.key_id.hex() != digits:
            raise NoteRefused("a verifier key does not have the id of its name and key")
        return key

    @property
    def key_id(self) -> bytes:
        """Return the four bytes by which a signature says whose it is."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._material).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._material).decode()}"

    def verify(self, text: str, value: bytes) -> int | None:
        """Return a witness's time in seconds since 1970 (of a log: None); raise unless it signed `text`."""
        seconds, message = None, text.encode()
        if self.kind == WITNESS_KIND:
            seconds, value = int.from_bytes(value[:TIME_BYTES]), value[TIME_BYTES:]
            message = cosigned(text, seconds)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(value, message)
        except InvalidSignature as reason:
            raise NoteRefused(f"the signature of {self.name} does not verify") from reason
        return seconds

    def signature(self, text: str, signer: Signs, *, seconds: int | None = None) -> "Signature":
        """Return the private half's signature under this name; a witness also says when."""
        assert (seconds is not None) == (self.kind == WITNESS_KIND), "a witness, and only it, says when"
        if seconds is None:
            value = signer.sign(text.encode())
        else:
            value = seconds.to_bytes(TIME_BYTES) + signer.sign(cosigned(text, seconds))
        return Signature(name=self.name, key_id=self.key_id, value=value)

    @property
    def _material(self) -> bytes:
        return bytes([self.kind]) + self.public


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One line below a note; unverified."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return the signature that a line holds, with or without its line feed."""
        dash, name, text, *more = [*line.removesuffix("\n").split(" "), "", ""][:4]
        raw = unbase64(text)
        if f"{dash} " != _DASH or not _is_name(name) or any(more) or len(raw) <= KEY_ID_BYTES:
            raise NoteRefused("a signature line is a dash, a name and base64")
        return cls(name=name, key_id=raw[:KEY_ID_BYTES], value=raw[KEY_ID_BYTES:])


@dataclass(frozen=True, kw_only=True)
class Note:
    """A text and the signatures below it; unverified."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the note in these bytes; whatever is not exactly of the form is refused."""
        if len(data) > NOTE_BYTES_MAX:
            raise NoteRefused(f"a note has at most {NOTE_BYTES_MAX} bytes")
        try:
            whole = data.decode()
        except UnicodeDecodeError as reason:
            raise NoteRefused("a note is UTF-8") from reason
        # The text is separated from the signatures by the last blank line: it may have others.
        text, blank, below = whole.rpartition("\n\n")
        lines = below.removesuffix("\n").split("\n")
        if not blank or not below.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f]", whole):
            raise NoteRefused("a note is a text, a blank line and signature lines, each with its line feed")
        if len(lines) > SIGNATURES_MAX:
            raise NoteRefused(f"a note has at most {SIGNATURES_MAX} signatures")
        return cls(text=f"{text}\n", signatures=tuple(Signature.parse(line) for line in lines))

    def verified(self, keys: Iterable[VerifierKey]) -> Mapping[VerifierKey, int | None]:
        """Return which of `keys` signed, a witness with its time.

        Signatures of strangers count for nothing and do no harm; one of a known key that does not
        verify refuses the whole note, and so does the lack of any.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[VerifierKey, int | None] = {}
        for each in self.signatures:
            key = known.get((each.name, each.key_id))
            if key is not None:
                found.setdefault(key, key.verify(self.text, each.value))
        if not found:
            raise NoteRefused("no key that is trusted has signed the note")
        return found


def cosigned(text: str, seconds: int) -> bytes:
    """Return what a witness signs."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def unbase64(text: str) -> bytes:
    """Return the bytes; only the one text that stands for them is taken."""
    try:
        raw = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError) as reason:
        raise NoteRefused("not base64") from reason
    if base64.b64encode(raw).decode() != text:
        raise NoteRefused("not canonical base64")
    return raw


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and not any(each.isspace() for each in text)
