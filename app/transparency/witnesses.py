"""Witnesses (C2SP `tlog-witness`): others who look at each checkpoint and sign only what was appended.

    POST <prefix>/add-checkpoint        old SIZE LF, base64 hashes, LF, the checkpoint's note
    200   cosignature lines
    409   the witness has seen another size: which
    422   the proof does not hold

Both sides: what a log asks (`collect`), and what a witness answers (`Witness`), which another party
runs with `lethe log witness`. A witness keeps one checkpoint for each log, in a file that is on the
disk before the cosignature leaves.
"""

import fcntl
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.clock import Clock
from app.errors import Problem
from app.storage.files import replace
from app.transparency import proofs, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import WITNESS_KIND, Note, NoteRefused, Signature, Signs, VerifierKey
from app.transparency.policies import Party, Policy

KNOWS_BETTER = ("witness-ahead", "witness-saw-another")
"""Why a witness did not cosign, when its word should stop the log: an honest log never hears them."""

ASK_SECONDS = 10.0
ANSWER_BYTES_MAX = 100_000
REQUEST_BYTES_MAX = 200_000
SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"

Ask = Callable[[str, bytes], tuple[int, bytes]]
"""Sends a body to a URL; returns status and answer. Status 0: nobody answered."""
Prove = Callable[[int], Sequence[bytes]]
"""Returns the proof from a size that the witness has seen."""


class NotCosigned(Problem):
    """A witness did not cosign; `code` says why."""

    code = "witness-refused"


# What a log asks ---------------------------------------------------------------------------------


def ask(url: str, body: bytes) -> tuple[int, bytes]:
    """Post over HTTP."""
    try:
        answer = httpx.post(url, content=body, timeout=ASK_SECONDS, headers={"Content-Type": TEXT_TYPE})
    except httpx.HTTPError:
        return 0, b""
    return answer.status_code, answer.content[:ANSWER_BYTES_MAX]


def collect(party: Party, note: Note, *, old: int, prove: Prove, ask: Ask) -> tuple[Signature, int]:
    """Return a witness's cosignature on a checkpoint, and its time; `old` is what it has seen, if known."""
    new = Checkpoint.parse(note.text)
    url = f"{(party.url or '').rstrip('/')}/add-checkpoint"
    for _ in range(2):
        hashes = prove(old) if 0 < old < new.size else ()
        status, answer = ask(url, request(old, hashes, note))
        if status == 200:
            return _cosignature(party.key, note, answer)
        # It says which size it has seen, and the second try starts from there.
        if status != 409 or not re.fullmatch(rb"(0|[1-9][0-9]{0,18})\n", answer):
            break
        if int(answer) > new.size:
            raise NotCosigned(
                f"{party.key.name} has seen size {int(answer)}, we have {new.size}: our database is behind",
                code="witness-ahead",
            )
        if int(answer) == old:
            raise NotCosigned(
                f"{party.key.name} has seen another root of size {old}", code="witness-saw-another"
            )
        old = int(answer)
    code = {0: "witness-away", 422: "witness-saw-another"}.get(status)
    raise NotCosigned(f"{party.key.name} answered {status}", code=code)


def request(old: int, hashes: Sequence[bytes], note: Note) -> bytes:
    """Return the body of a call."""
    return "\n".join([f"old {old}", *proofs.encode_hashes(hashes), "", ""]).encode() + note.encode()


def _cosignature(key: VerifierKey, note: Note, answer: bytes) -> tuple[Signature, int]:
    """Return the line that this witness signed; others in the answer count for nothing."""
    try:
        for line in answer.decode().splitlines():
            signature = Signature.parse(line)
            if (signature.name, signature.key_id) == (key.name, key.key_id):
                seconds = key.verify(note.text, signature.value)
                assert seconds is not None, "a witness says when"
                return signature, seconds
    except ValueError as reason:
        raise NotCosigned(f"the answer of {key.name} is no cosignature", code="witness-garbled") from reason
    raise NotCosigned(f"{key.name} did not sign its answer", code="witness-garbled")


# What a witness answers ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP answer, without HTTP."""

    status: int
    body: bytes = b""
    content_type: str = TEXT_TYPE


@dataclass(frozen=True, kw_only=True)
class Witness:
    """One who cosigns; `policy` names the logs that it looks at."""

    key: VerifierKey
    signer: Signs
    policy: Policy
    directory: Path
    clock: Clock

    def __post_init__(self) -> None:
        """Refuse a key that is not for cosigning."""
        assert self.key.kind == WITNESS_KIND

    def add_checkpoint(self, body: bytes) -> Answer:
        """Return the cosignature on a checkpoint that only appends to the last one seen, or why not."""
        try:
            old, hashes, data = _parsed(body)
            new = Checkpoint.parse(Note.parse(data).text)
        except ValueError as reason:
            return _refusal(400, f"{reason}")
        if new.origin not in {party.key.name for party in self.policy.logs}:
            return _refusal(404, "this witness does not look at that log")
        try:
            self.policy.signed(data)
        except NoteRefused as reason:
            return _refusal(403, f"{reason}")
        if old > new.size:
            return _refusal(400, "the old size is above the new one")
        return self._compared(old, hashes, new)

    def _compared(self, old: int, hashes: Sequence[bytes], new: Checkpoint) -> Answer:
        """Compare and keep under one lock: else a slower caller could roll back what a faster one set."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / hashlib.sha256(new.origin.encode()).hexdigest()
        with path.with_suffix(".lock").open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            seen = Checkpoint.parse(path.read_text()) if path.exists() else None
            size = 0 if seen is None else seen.size
            if old != size or (seen is not None and old == new.size and seen.root != new.root):
                return Answer(status=409, body=f"{size}\n".encode(), content_type=SIZE_TYPE)
            try:
                if seen is not None and seen.size:
                    tree.verify_consistency(seen.size, new.size, seen.root, new.root, hashes)
                elif hashes:
                    raise tree.InvalidProof("from size 0 nothing can be shown")  # noqa: TRY301  one way out
                if new.size == 0 and new.root != tree.EMPTY_ROOT:
                    raise tree.InvalidProof("an empty tree has another root")  # noqa: TRY301  likewise
            except tree.InvalidProof as reason:
                return _refusal(422, f"{reason}")
            replace(path, new.text.encode())
        line = self.key.signature(new.text, self.signer, seconds=int(self.clock().timestamp()))
        return Answer(status=200, body=str(line).encode())


def _parsed(body: bytes) -> tuple[int, tuple[bytes, ...], bytes]:
    head, blank, data = body.partition(b"\n\n")
    first, *lines = head.decode().split("\n")
    if not blank or not re.fullmatch("old (0|[1-9][0-9]{0,18})", first):
        raise NoteRefused("a call begins with the old size")
    return int(first.removeprefix("old ")), proofs.decode_hashes(lines), data


def _refusal(status: int, why: str) -> Answer:
    return Answer(status=status, body=f"{why}\n".encode())
