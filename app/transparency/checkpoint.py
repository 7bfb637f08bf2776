"""Checkpoints (C2SP `tlog-checkpoint`): how large a log is and what is its root, in three lines to sign.

    origin LF
    size LF
    base64(root) LF

The origin is the log's name and its key's name. We write no extension lines and refuse them: they
would be signed and mean nothing. Knows neither who may sign nor the tree below the root.
"""

import base64
import re
from dataclasses import dataclass
from typing import Self

from app.transparency import notes, tree
from app.transparency.notes import Note, NoteRefused, VerifierKey

SIZE_MAX = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A log at one size."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """Return the lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the checkpoint that a verified text states."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise NoteRefused("a checkpoint is three lines: origin, size, root")
        if not re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]) or int(lines[1]) > SIZE_MAX:
            raise NoteRefused("the size of a log is a decimal without leading zeroes")
        root = notes.unbase64(lines[2])
        if len(root) != tree.HASH_BYTES:
            raise NoteRefused(f"a root has {tree.HASH_BYTES} bytes")
        return cls(origin=lines[0], size=int(lines[1]), root=root)


def sign(checkpoint: Checkpoint, key: VerifierKey, signer: notes.Signs) -> Note:
    """Return the log's own note; Ed25519 is deterministic, so signing again gives the same bytes."""
    if checkpoint.origin != key.name:
        raise NoteRefused(f"the key of {key.name} does not sign for {checkpoint.origin}")
    return Note(text=checkpoint.text, signatures=(key.signature(checkpoint.text, signer),))
