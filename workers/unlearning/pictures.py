"""A picture inside of a record: a data URI (RFC 2397) of a binary portable anymap, and nothing else.

    data:image/x-portable-anymap;base64,UDYKMiAxCjI1NQr/AAAAAP8=

Inside is the whole file: `P5` (grey) or `P6` (red, green, blue), width, height, 255, then one byte per
sample, rows from the top. Most tools write it (`magick in.png ppm:-`); it says its own size; its bytes
are the pixels, so no decoder's version has a say in what is learned. Nothing is resized or cropped
here: whoever prepares a data set brings pictures to the model's size once, by means of no record.

A record that is no such picture is bad data; errors never repeat one. It knows no model and no tensor.
"""

import base64
import binascii
import re
from dataclasses import dataclass

from workers.unlearning.data import BadData

MEDIA_TYPE = "image/x-portable-anymap"
_PREFIX = f"data:{MEDIA_TYPE};base64,"
_HEADER = re.compile(rb"(P5|P6)(?:\s|#[^\n]*\n)+(\d{1,5})\s+(\d{1,5})\s+255\s", re.ASCII)
_CHANNELS = {b"P5": 1, b"P6": 3}
_TOKEN_PIXELS = 256
"""A patch of 16 x 16, as a model that reads patches makes one token of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Samples of one byte, row by row, the channels of a pixel side by side."""

    width: int
    height: int
    channels: int
    samples: bytes

    def __post_init__(self) -> None:
        """Refuse a picture that is shorter or longer than it says."""
        if not self.samples or len(self.samples) != self.width * self.height * self.channels:
            raise BadData("a picture does not have the samples that its header says")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels: how the samples lie."""
        return self.height, self.width, self.channels

    @property
    def length(self) -> int:
        """About how many tokens the picture is to a model that reads patches; at least one."""
        return -(-self.width * self.height // _TOKEN_PIXELS)

    @classmethod
    def read(cls, text: str) -> "Picture":
        """Return the picture that a record holds."""
        if not text.startswith(_PREFIX):
            raise BadData(f"a record holds no picture; one begins with {_PREFIX}")
        try:
            raw = base64.b64decode(text[len(_PREFIX) :], validate=True)
        except binascii.Error:
            raise BadData("a picture is not base64") from None
        header = _HEADER.match(raw)
        if header is None:
            raise BadData("a picture is no binary portable anymap of one byte per sample")
        kind, width, height = header.groups()
        return cls(
            width=int(width), height=int(height), channels=_CHANNELS[kind], samples=raw[header.end() :]
        )

    def text(self) -> str:
        """Return the picture as a record holds it."""
        kind = next(kind for kind, channels in _CHANNELS.items() if channels == self.channels)
        raw = b"%s\n%d %d\n255\n" % (kind, self.width, self.height) + self.samples
        return _PREFIX + base64.b64encode(raw).decode()
