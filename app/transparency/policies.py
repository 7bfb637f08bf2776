"""Whose checkpoints count (C2SP `tlog-policy`): the log's keys, the witnesses, how many of them.

    log <vkey> [url]
    witness W1 <vkey> [url]
    group G 2 W1 W2 W3              (or `any`, or `all`)
    quorum G                        (or a witness, or `none`)

One text for four readers: the log (whom it asks), the checker and the monitor (what they demand), a
witness (whose checkpoints it cosigns). Knows no network and no clock.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import LOG_KIND, WITNESS_KIND, Note, NoteRefused, VerifierKey

LINES_MAX = 1_000
POLICY_BYTES_MAX = 100_000


class PolicyRefused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """The text is no policy."""


@dataclass(frozen=True, kw_only=True)
class Party:
    """A log or a witness: its key, and where it can be asked."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Members of whom `least` must have cosigned."""

    least: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A checkpoint that the policy accepts, and what stands behind it."""

    checkpoint: Checkpoint
    cosigned: Mapping[str, int]
    """Witness to its time, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Whose word is taken."""

    logs: tuple[Party, ...]
    witnesses: Mapping[str, Party]
    groups: Mapping[str, Group]
    quorum: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the policy in the text; anything that is not understood refuses it whole."""
        reading = _Reading()
        lines = text.split("\n")
        if len(text) > POLICY_BYTES_MAX or len(lines) > LINES_MAX:
            raise PolicyRefused("the policy is too long")
        for number, line in enumerate(lines, 1):
            if any(each != "\t" and (each < " " or each == "\x7f") for each in line):
                raise PolicyRefused(f"line {number}: a control character")
            words = line.replace("\t", " ").split(" ")
            words = [word for word in words if word]
            if words and not words[0].startswith("#"):
                try:
                    reading.line(words)
                except (PolicyRefused, NoteRefused) as reason:
                    raise PolicyRefused(f"line {number}: {reason}") from reason
        if reading.quorum is None:
            raise PolicyRefused("there must be one quorum line")
        return cls(
            logs=tuple(reading.logs),
            witnesses=MappingProxyType(reading.witnesses),
            groups=MappingProxyType(reading.groups),
            quorum=reading.quorum,
        )

    def satisfied(self, cosigned: Collection[str]) -> bool:
        """Return whether these witnesses together are the quorum."""

        def holds(name: str) -> bool:
            group = self.groups.get(name)
            if group is None:
                return name in cosigned
            return sum(map(holds, group.members)) >= group.least

        return self.quorum == "none" or holds(self.quorum)

    def signed(self, data: bytes) -> Opened:
        """Return the checkpoint of a note by one of the logs, and who cosigned, quorum or not."""
        note = Note.parse(data)
        names = {party.key: name for name, party in self.witnesses.items()}
        logs = {party.key for party in self.logs}
        verified = note.verified([*logs, *names])
        signed_by = [key for key in verified if key in logs]
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin not in {key.name for key in signed_by}:
            raise NoteRefused("no log that is trusted has signed the checkpoint")
        cosigned = {names[key]: seconds for key, seconds in verified.items() if seconds is not None}
        return Opened(checkpoint=checkpoint, cosigned=cosigned)

    def opened(self, data: bytes) -> Opened:
        """Return the checkpoint of a note that a log signed and a quorum cosigned."""
        opened = self.signed(data)
        if not self.satisfied(opened.cosigned):
            raise NoteRefused(
                f"cosigned by {', '.join(sorted(opened.cosigned)) or 'nobody'}, not by {self.quorum}"
            )
        return opened


class _Reading:
    """A policy while it is read: a name must be defined before it is used, and is used once."""

    def __init__(self) -> None:
        self.logs: list[Party] = []
        self.witnesses: dict[str, Party] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self.used: set[str] = set()

    def line(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self.logs.append(self.party(vkey, url, LOG_KIND))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self.fresh(name)
                self.witnesses[name] = self.party(vkey, url, WITNESS_KIND)
            case ["group", name, least, first, *others]:
                self.fresh(name)
                self.groups[name] = self.group(least, (first, *others))
            case ["quorum", name] if self.quorum is None:
                if name != "none" and name not in self.known:
                    raise PolicyRefused(f"there is no {name}")
                self.quorum = name
            case _:
                raise PolicyRefused("not understood")

    @property
    def known(self) -> set[str]:
        return {*self.witnesses, *self.groups}

    def fresh(self, name: str) -> None:
        if name == "none" or name in self.known:
            raise PolicyRefused(f"the name {name} is taken")

    def party(self, vkey: str, url: list[str], kind: int) -> Party:
        key = VerifierKey.parse(vkey)
        if key.kind != kind:
            raise PolicyRefused(f"{key.name} has not the kind of key that is due")
        if key.public in {each.key.public for each in [*self.logs, *self.witnesses.values()]}:
            raise PolicyRefused(f"the key of {key.name} occurs twice")
        return Party(key=key, url=url[0] if url else None)

    def group(self, least: str, members: tuple[str, ...]) -> Group:
        if missing := set(members) - self.known:
            raise PolicyRefused(f"there is no {', '.join(sorted(missing))}")
        if len(set(members)) != len(members) or self.used & set(members):
            raise PolicyRefused("a name is a member once")
        self.used |= set(members)
        count = {"any": "1", "all": str(len(members))}.get(least, least)
        if not (count.isascii() and count.isdecimal() and 1 <= int(count) <= len(members)):
            raise PolicyRefused(f"{least} of {len(members)} cannot be")
        return Group(least=int(count), members=members)
