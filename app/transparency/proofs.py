"""Proofs that something was logged (C2SP `tlog-proof`): one text that is checked without asking anybody.

    c2sp.org/tlog-proof@v1 LF
    index N LF
    base64(hash) LF ...                 from the leaf's sibling up
    LF
    the checkpoint's note

Bytes in, bytes out.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from app.transparency import notes, tree
from app.transparency.notes import NoteRefused
from app.transparency.policies import Opened, Policy

HEADER = "c2sp.org/tlog-proof@v1"
HASHES_MAX = 63


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Where an entry stands, the path from it to the root, and the signed root."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """Return the proof file."""
        lines = [HEADER, f"index {self.index}", *encode_hashes(self.hashes), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the proof in a file; an `extra` line is refused, because nothing vouches for it."""
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            header, index, *hashes = head.decode().split("\n")
        except ValueError as reason:
            raise NoteRefused("a proof begins with its header and the index") from reason
        if header != HEADER or not blank or not re.fullmatch("index (0|[1-9][0-9]{0,18})", index):
            raise NoteRefused("a proof begins with its header and the index")
        return cls(
            index=int(index.removeprefix("index ")), hashes=decode_hashes(hashes), checkpoint=checkpoint
        )

    def verify(self, entry: bytes, policy: Policy) -> Opened:
        """Return the accepted checkpoint that covers `entry`; raise if there is none."""
        opened = policy.opened(self.checkpoint)
        found = opened.checkpoint
        tree.verify_inclusion(self.index, found.size, tree.leaf_hash(entry), self.hashes, found.root)
        return opened


def encode_hashes(hashes: Sequence[bytes]) -> list[str]:
    """Return a line for each hash."""
    return [base64.b64encode(each).decode() for each in hashes]


def decode_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    """Return the hashes of these lines."""
    hashes = tuple(map(notes.unbase64, lines))
    if len(hashes) > HASHES_MAX or any(len(each) != tree.HASH_BYTES for each in hashes):
        raise NoteRefused(f"a proof has at most {HASHES_MAX} hashes of {tree.HASH_BYTES} bytes")
    return hashes
