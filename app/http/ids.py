"""Public ids: a prefix that says what it is, and the UUID in 26 lower-case Crockford base32 digits.

Like TypeID: `er_01h455vb4pex5vsknk084sn02q`. Knows nothing of HTTP but that an unreadable id is the
same as an unknown one.
"""

from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from app.errors import NotFound

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
DIGITS = 26
_PAIRS = tuple(first + second for first in ALPHABET for second in ALPHABET)
VALUES = {digit: value for value, digit in enumerate(ALPHABET)}


def encode(prefix: str, id: UUID) -> str:  # noqa: A002  the field's own word
    """Return `er_...` for a request's UUID: 128 bits in 26 digits of five, the first at most 7."""
    number = id.int
    return f"{prefix}_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def decode(prefix: str, text: str) -> UUID:
    """Return the UUID of a public id; whatever cannot be read is not found."""
    head, _, digits = text.rpartition("_")
    if head != prefix or len(digits) != DIGITS or not set(digits) <= VALUES.keys() or digits[0] > "7":
        raise NotFound(f"there is no such {prefix}_ id")
    number = 0
    for digit in digits:
        number = number << 5 | VALUES[digit]
    return UUID(int=number)


class _Public:
    """How one kind of id is read from a path and written to JSON."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def read(self, value: object) -> UUID:
        return value if isinstance(value, UUID) else decode(self.prefix, str(value))

    def write(self, id: UUID) -> str:  # noqa: A002  the field's own word
        return encode(self.prefix, id)

    @property
    def schema(self) -> WithJsonSchema:
        return WithJsonSchema({"type": "string", "pattern": f"^{self.prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$"})


_aud, _imp, _ses = _Public("aud"), _Public("imp"), _Public("ses")
_whe, _whd, _msg = _Public("whe"), _Public("whd"), _Public("msg")
_er, _job, _mdl, _mv, _ds, _key, _pr, _hold, _pause = (
    _Public(prefix) for prefix in ("er", "job", "mdl", "mv", "ds", "key", "pr", "hold", "pause")
)

RequestId = Annotated[UUID, BeforeValidator(_er.read), PlainSerializer(_er.write), _er.schema]
AuditId = Annotated[UUID, BeforeValidator(_aud.read), PlainSerializer(_aud.write), _aud.schema]
ImportId = Annotated[UUID, BeforeValidator(_imp.read), PlainSerializer(_imp.write), _imp.schema]
SessionId = Annotated[UUID, BeforeValidator(_ses.read), PlainSerializer(_ses.write), _ses.schema]
JobId = Annotated[UUID, BeforeValidator(_job.read), PlainSerializer(_job.write), _job.schema]
ModelId = Annotated[UUID, BeforeValidator(_mdl.read), PlainSerializer(_mdl.write), _mdl.schema]
VersionId = Annotated[UUID, BeforeValidator(_mv.read), PlainSerializer(_mv.write), _mv.schema]
DatasetId = Annotated[UUID, BeforeValidator(_ds.read), PlainSerializer(_ds.write), _ds.schema]
KeyId = Annotated[UUID, BeforeValidator(_key.read), PlainSerializer(_key.write), _key.schema]
PrincipalId = Annotated[UUID, BeforeValidator(_pr.read), PlainSerializer(_pr.write), _pr.schema]
HoldId = Annotated[UUID, BeforeValidator(_hold.read), PlainSerializer(_hold.write), _hold.schema]
PauseId = Annotated[UUID, BeforeValidator(_pause.read), PlainSerializer(_pause.write), _pause.schema]
EndpointId = Annotated[UUID, BeforeValidator(_whe.read), PlainSerializer(_whe.write), _whe.schema]
DeliveryId = Annotated[UUID, BeforeValidator(_whd.read), PlainSerializer(_whd.write), _whd.schema]
MessageId = Annotated[UUID, BeforeValidator(_msg.read), PlainSerializer(_msg.write), _msg.schema]
