"""Watch a log from outside: what was once seen must still be there, in its place, for ever.

    watch     keep the last checkpoint in a file; read the log again and compare
    compare   a proof that somebody got long ago, against the log as it is now

A monitor needs no account and trusts no answer: it hashes every entry itself. What it keeps is the
checkpoint and the roots of its whole subtrees, so that going on costs only what is new; by default all
is read again, because an entry may be changed for some readers without touching the tree. Knows no
HTTP: `fetch` returns what stands at a path below the log's URL, None where there is nothing.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.storage.files import replace
from app.transparency import tiles, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import NoteRefused
from app.transparency.policies import Opened, Policy, PolicyRefused
from app.transparency.proofs import Proof
from app.transparency.tiles import ENTRIES, WIDTH, Tile, TiledTree, TileRefused
from app.transparency.tree import Frontier, InvalidProof

VERSION = "lethe/log-monitor/1"
CHECKPOINT, POLICY = "checkpoint", "policy"

Get = Callable[[str], bytes | None]


class Alarm(Exception):  # noqa: N818  it is named for what it does
    """The log is not what it must be; the message is a plain sentence, `code` one word of five."""

    FORKED, ROLLED_BACK, EDITED, UNSIGNED, BROKEN = "forked", "rolled-back", "edited", "unsigned", "broken"

    def __init__(self, code: str, message: str) -> None:
        """Carry both."""
        super().__init__(message)
        self.code = code


class StateRefused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """The file is not one that a monitor has written."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a monitor remembers."""

    policy: str
    note: bytes
    frontier: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path) -> "Kept | None":
        """Return what the file holds, None if there is no file; raise if it is another kind of file."""
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as reason:
            raise StateRefused(f"{path} is not a monitor's file") from reason
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise StateRefused(f"{path} is not a monitor's file")
        try:
            frontier = tuple(bytes.fromhex(each) for each in found["frontier"])
            return cls(policy=found["policy"], note=found["checkpoint"].encode(), frontier=frontier)
        except (KeyError, TypeError, ValueError, AttributeError) as reason:
            raise StateRefused(f"{path} is not a monitor's file") from reason

    def write(self, path: Path) -> None:
        """Replace the file."""
        body = {
            "version": VERSION,
            "policy": self.policy,
            "checkpoint": self.note.decode(),
            "frontier": [each.hex() for each in self.frontier],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, json.dumps(body, indent=1).encode() + b"\n")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look at the log found."""

    origin: str
    size: int
    before: int | None
    """How large it was when it was last looked at; None: never."""
    cosigned: Mapping[str, int]
    new: Mapping[str, int]
    """How many entries of each kind came since."""


def watch(get: Get, state: Path, *, policy: str | None = None, only_new: bool = False) -> Seen:
    """Look at a log, compare it with what was kept, and keep it; raise `Alarm` if it is not the same log.

    Without `policy` the one that was kept is taken, and at the very first look the one that the log
    itself shows. What raised the alarm is left beside `state`, as evidence: a note that our log signed
    and cannot take back.
    """
    kept = Kept.read(state)
    text = policy or (kept.policy if kept else None) or _text(get, POLICY)
    trusted = Policy.parse(text)
    old = None if kept is None else _of(kept, trusted)
    data = get(CHECKPOINT)
    if data is None:
        if old is not None:
            raise Alarm(Alarm.ROLLED_BACK, f"the log shows nothing and had shown {old.size} entries")
        return Seen(origin=trusted.logs[0].key.name, size=0, before=None, cosigned={}, new={})
    try:
        opened = _opened(trusted, data)
        frontier, new = _compared(get, opened.checkpoint, old, kept if only_new else None)
    except Alarm:
        if kept is not None:
            state.with_name(f"{state.name}.alarm").write_bytes(data)
        raise
    found = opened.checkpoint
    Kept(policy=text, note=data, frontier=tuple(frontier.hashes)).write(state)
    return Seen(
        origin=found.origin,
        size=found.size,
        before=None if old is None else old.size,
        cosigned=opened.cosigned,
        new=new,
    )


def compare(get: Get, proof: bytes, policy: Policy) -> Checkpoint:
    """Return the log's checkpoint of today if it continues the one in an old proof; else raise `Alarm`."""
    try:
        old = policy.opened(Proof.parse(proof).checkpoint).checkpoint
    except NoteRefused as reason:
        raise Alarm(Alarm.UNSIGNED, f"the proof is not of a log that is trusted: {reason}") from reason
    data = get(CHECKPOINT)
    if data is None:
        raise Alarm(Alarm.ROLLED_BACK, f"the log shows nothing and had shown {old.size} entries")
    new = _opened(policy, data).checkpoint
    _monotone(old, new)
    try:
        hashes = TiledTree(new.size, _fetch(get)).consistency_proof(old.size)
        tree.verify_consistency(old.size, new.size, old.root, new.root, hashes)
    except (InvalidProof, TileRefused) as reason:
        raise _edited(old, new) from reason
    return new


def _compared(
    get: Get, new: Checkpoint, old: Checkpoint | None, kept: Kept | None
) -> tuple[Frontier, Mapping[str, int]]:
    """Return the rebuilt tree, and the kinds of what is new, if the tree is the one that was signed."""
    if old is not None:
        _monotone(old, new)
    start = Frontier()
    if old is not None and kept is not None:
        start = Frontier(old.size, kept.frontier)
        if start.root() != old.root:
            raise StateRefused("the monitor's file does not hold the tree of its checkpoint")
    rebuilding = _Rebuilding(_fetch(get), start, old, new)
    try:
        for place in tiles.of_size(new.size, level=ENTRIES, since=start.size):
            rebuilding.bundle(place)
        rebuilding.finish()
    except TileRefused as reason:
        raise Alarm(Alarm.BROKEN, f"the log cannot be read: {reason}") from reason
    return rebuilding.tree, rebuilding.kinds


class _Rebuilding:
    """The tree as the entries make it, compared on the way with the tiles and with what was seen before.

    Tiles above level 0 are compared when all is read from the first entry on.
    """

    def __init__(self, fetch: tiles.Fetch, start: Frontier, old: Checkpoint | None, new: Checkpoint) -> None:
        self.fetch, self.tree, self.old, self.new = fetch, start, old, new
        self.kinds: Counter[str] = Counter()
        self.whole = start.size == 0
        self.rows: list[list[bytes]] = []
        """By level from 1 on: the roots of the whole tiles below."""

    def bundle(self, place: Tile) -> None:
        entries = tiles.entries_of(self.fetch(place), width=place.width)
        leaves = [tree.leaf_hash(each) for each in entries]
        tile = Tile(level=0, number=place.number, width=place.width)
        if b"".join(leaves) != self.fetch(tile):
            raise Alarm(Alarm.EDITED, f"{place.path} does not hold the entries of {tile.path}")
        for entry, leaf in list(zip(entries, leaves, strict=True))[self.tree.size - place.first :]:
            self.take(entry, leaf)
        if self.whole and place.width == WIDTH:
            self.above(1, tree.root(leaves))

    def take(self, entry: bytes, leaf: bytes) -> None:
        before = 0 if self.old is None else self.old.size
        if self.tree.size >= before:
            self.kinds[_kind(entry)] += 1
        self.tree.append(leaf)
        if self.old is not None and self.tree.size == before and self.tree.root() != self.old.root:
            raise _edited(self.old, self.new)

    def above(self, level: int, root: bytes) -> None:
        if len(self.rows) < level:
            self.rows.append([])
        row = self.rows[level - 1]
        row.append(root)
        if len(row) % WIDTH == 0:
            self.above(level + 1, tree.root(row[-WIDTH:]))

    def finish(self) -> None:
        if self.tree.root() != self.new.root:
            raise _edited(self.old, self.new)
        for level, row in enumerate(self.rows, 1):
            for tile in tiles.of_size(self.new.size, level=level):
                if self.fetch(tile) != b"".join(row[tile.first : tile.first + tile.width]):
                    raise Alarm(Alarm.EDITED, f"{tile.path} does not hold the roots of the tiles below it")


def _monotone(old: Checkpoint, new: Checkpoint) -> None:
    if new.origin != old.origin:
        raise Alarm(Alarm.FORKED, f"this is another log: {new.origin}, not {old.origin}")
    if new.size < old.size:
        raise Alarm(
            Alarm.ROLLED_BACK,
            f"the log shows {new.size} entries and had shown {old.size}: it was rolled back",
        )
    if new.size == old.size and new.root != old.root:
        raise Alarm(Alarm.FORKED, f"the log has signed two roots of {new.size} entries: it was forked")


def _edited(old: Checkpoint | None, new: Checkpoint) -> Alarm:
    if old is None or old.size == new.size:
        return Alarm(Alarm.EDITED, f"the {new.size} entries that the log shows are not those it signed")
    return Alarm(
        Alarm.EDITED,
        f"the log of {new.size} entries does not begin with the {old.size} that it had shown: entries were"
        " changed, moved or taken out",
    )


def _opened(policy: Policy, data: bytes) -> Opened:
    try:
        return policy.opened(data)
    except NoteRefused as reason:
        raise Alarm(Alarm.UNSIGNED, f"the checkpoint does not count: {reason}") from reason


def _of(kept: Kept, policy: Policy) -> Checkpoint:
    """Return the checkpoint that was kept; its signature is checked again, its quorum may be of old times."""
    try:
        return policy.signed(kept.note).checkpoint
    except NoteRefused as reason:
        raise StateRefused(f"the checkpoint that was kept is not by a trusted log: {reason}") from reason


def _text(get: Get, path: str) -> str:
    data = get(path)
    if data is None:
        raise PolicyRefused("the log shows no policy: name the file with its verifier key")
    return data.decode()


def _fetch(get: Get) -> tiles.Fetch:
    def fetch(place: Tile) -> bytes:
        data = get(place.path)
        if data is None:
            raise TileRefused(f"there is no {place.path}")
        return data

    return fetch


def _kind(entry: bytes) -> str:
    """Return what an entry says it is about; whatever it is, it is counted."""
    try:
        said: Any = json.loads(entry)
    except ValueError:
        return "unknown"
    kind = said.get("kind") if isinstance(said, dict) else None
    return kind if isinstance(kind, str) and kind.isprintable() else "unknown"
