"""What is logged: that a statement of some kind exists, by digests alone.

    {"kind":"erasure-certificate/v1","paeSha256":"hex64","subject":"hex64"}        RFC 8785, 189 bytes

Only digests: a statement may be destroyed while the tree stays provable, and nothing personal can ever
be in a log that nobody can edit. Pure.
"""

import re
from typing import Literal, get_args

from app.signing import canonical

Kind = Literal[
    "erasure-certificate/v1",
    "publication/v1",
    "certificate-status/v1",
    "replay/v1",
    "destruction/v1",
    "key/v1",
    "serving-attestation/v1",
    "suppression-notice/v1",
    "audit-head/v1",
    "log-continuation/v1",
]
KINDS: tuple[str, ...] = get_args(Kind)
ENTRY_BYTES_MAX = 65_535


def build(kind: Kind, *, pae_sha256: str, subject: str) -> bytes:
    """Return the entry about one statement: its identity, and the digest of its first subject."""
    if kind not in KINDS:
        raise ValueError(f"no statement is of kind {kind}")
    for digest in (pae_sha256, subject):
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError("a digest is 64 lowercase hex digits")
    return canonical.encode({"kind": kind, "paeSha256": pae_sha256, "subject": subject})
